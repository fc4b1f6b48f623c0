// silu(gate) * up, the experts' activation: `swiglu` of tinymoe/model/experts.py.
//
// x * sigmoid(x) = x / (1 + e^-x); e^-x may overflow to infinity, and the result is then -0.
// Clamped (gpt-oss): gate is cut at `limit` from above alone, up on both sides, and
// (up + 1) * gate * sigmoid(alpha gate). Compared, not fminf: that would make a number of a NaN.

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float swiglu(float gate, float up, int clamped, float limit,
                                        float alpha) {
  if (!clamped) return gate / (1.0f + expf(-gate)) * up;
  gate = gate > limit ? limit : gate;
  up = up > limit ? limit : (up < -limit ? -limit : up);
  return (up + 1.0f) * (gate * sigmoid(alpha * gate));
}
