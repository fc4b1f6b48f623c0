// uses: scoring.cuh
//
// Step 1 of routing: logits (tokens, experts) to scores of the same shape. What it must equal:
// `score` of tinymoe/model/router.py. Nobody has run it on a GPU yet.

// First rung: one thread a token. Neighbouring threads read addresses a whole row apart, so each of
// the 32 loads of a warp is a memory transaction of its own.
extern "C" __global__ void softmax_naive(float *scores, const float *logits, int tokens,
                                         int experts) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= tokens) return;
  const float *x = logits + (i64)t * experts;
  float top = x[0], total = 0.0f;
  for (int e = 1; e < experts; ++e) top = max_nan(top, x[e]);
  for (int e = 0; e < experts; ++e) total += expf(x[e] - top);
  for (int e = 0; e < experts; ++e) scores[(i64)t * experts + e] = score_of(SOFTMAX, x[e], top, total);
}

// Second rung: one warp a token. Neighbouring lanes read neighbouring addresses, 128 bytes at a
// time; the maximum and the sum go through shuffles. Any number of experts: the row is read three
// times, from the second time on out of the cache.
extern "C" __global__ void softmax_warp(float *scores, const float *logits, int tokens,
                                        int experts) {
  int t = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
  if (t >= tokens) return;  // a whole warp leaves, so shuffles below stay complete
  const float *x = logits + (i64)t * experts;
  float top = -INF, total = 0.0f;
  for (int e = lane_id(); e < experts; e += WARP) top = max_nan(top, x[e]);
  top = warp_max(top);
  for (int e = lane_id(); e < experts; e += WARP) total += expf(x[e] - top);
  total = warp_sum(total);
  for (int e = lane_id(); e < experts; e += WARP)
    scores[(i64)t * experts + e] = score_of(SOFTMAX, x[e], top, total);
}

// One thread a number: nothing to share, nothing to improve.
extern "C" __global__ void sigmoid(float *scores, const float *logits, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) scores[i] = sigmoid_of(logits[i]);
}
