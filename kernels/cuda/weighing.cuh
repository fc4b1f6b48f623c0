// uses: scoring.cuh
// Raw weights to weights: steps 4 and 5 of tinymoe/model/router.py, and Phi's own step 3.

#define FROM_SCORE 0
#define FROM_SOFTMAX 1  // of the chosen logits alone
#define FROM_SIGMOID 2  // of the chosen logits: where the score is none (Llama-4)
#define FROM_SPARSEMIXER 3

#define MIXER_REACH 0.02f  // twice Phi's router_jitter_noise

// One term of the sparse mixer's sum: e^(x - top), and 0 for a logit that is no near rival of
// `top`. Neither fmaxf nor the comparison minds a NaN: the difference has it already.
__device__ __forceinline__ float rival(float x, float top) {
  bool far = (top - x) / fmaxf(fabsf(x), top) > MIXER_REACH;
  return expf((far ? -INF : x) - top);
}

// What the K weights are divided by. The epsilon is added, the floor is a lower limit; 0: none.
__device__ __forceinline__ float divisor_of(float total, float epsilon, float floor) {
  total += epsilon;
  return floor != 0.0f ? max_nan(total, floor) : total;
}
