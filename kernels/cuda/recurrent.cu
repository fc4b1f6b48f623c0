// uses: prims.cuh ieee.cuh
//
// Layers that keep a state instead of keys and values: the convolution before a gated delta net,
// the gated delta rule (Qwen3-Next), lightning attention (MiniMax-01). What they must equal:
// tinymoe/model/linear_attention.py. Nobody has run them on a GPU yet.
//
// A state S is (heads, Dv, Dk). Its rows never meet: row i takes in number i of a token's value and
// answers with number i of the output. So a warp owns a row, and lane l its columns l, l + 32, ...
// from the first token to the last: what a lane reads back, it wrote itself, and nobody waits.
// Sums over Dk: each lane its own columns in order, then the tree of `warp_sum`.

// One thread a number: of the output first, then of the state, which is the last inputs as they
// are. x (T, C), weight (C, taps), before (taps - 1, C); out (T, C), state (taps - 1, C).
extern "C" __global__ void causal_conv(float *out, float *state, const float *x,
                                       const float *weight, const float *before, int tokens,
                                       int channels, int taps, int bf16) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (tokens + taps - 1) * channels) return;
  int t = i / channels, c = i % channels, past = taps - 1;
  if (t >= tokens) {  // row t of `before` and x as one, from which the next token starts
    state[i - tokens * channels] =
        t < past ? before[i] : x[(i64)(t - past) * channels + c];
    return;
  }
  float total = 0.0f;
#pragma unroll 1
  for (int tap = 0; tap < taps; ++tap) {  // the oldest first; the last is the token's own
    int row = t + tap;
    float seen = row < past ? before[(i64)row * channels + c] : x[(i64)(row - past) * channels + c];
    total = fmaf(seen, weight[c * taps + tap], total);
  }
  out[i] = stored(total / (1.0f + expf(-total)), bf16);
}

// 1 / sqrt(sum of squares + eps) would round once more: the root itself, to divide by.
__device__ __forceinline__ float length_of(const float *x, int n, float eps) {
  float squares = 0.0f;
#pragma unroll 1
  for (int i = lane_id(); i < n; i += WARP) squares = fmaf(x[i], x[i], squares);
  return sqrtf(warp_sum(squares) + eps);
}

// One warp a row of the state. q, k (T, key_heads, Dk); v, out (T, heads, Dv); log_decay, beta
// (T, heads); before, state (heads, Dv, Dk). heads / key_heads consecutive heads share a key.
extern "C" __global__ void gated_delta(float *out, float *state, const float *q, const float *k,
                                       const float *v, const float *log_decay, const float *beta,
                                       const float *before, int tokens, int key_heads, int heads,
                                       int key_dim, int value_dim, float eps, int bf16) {
  int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (row >= heads * value_dim) return;  // a whole warp
  int head = row / value_dim, own = head / (heads / key_heads);
  float *mine = state + (i64)row * key_dim, scale = sqrtf((float)key_dim);
  const float *old = before + (i64)row * key_dim;
#pragma unroll 1
  for (int t = 0; t < tokens; ++t) {
    const float *key = k + ((i64)t * key_heads + own) * key_dim;
    const float *query = q + ((i64)t * key_heads + own) * key_dim;
    float k_size = length_of(key, key_dim, eps), q_size = length_of(query, key_dim, eps);
    float keep = expf(log_decay[t * heads + head]), found = 0.0f, sum = 0.0f;
#pragma unroll 1
    for (int c = lane_id(); c < key_dim; c += WARP) {  // it fades before it is read
      float faded = keep * (t ? mine[c] : old[c]);
      mine[c] = faded;
      found = fmaf(faded, key[c] / k_size, found);
    }
    float change = beta[t * heads + head] * (v[(i64)t * heads * value_dim + row] - warp_sum(found));
#pragma unroll 1
    for (int c = lane_id(); c < key_dim; c += WARP) {
      float now = fmaf(change, key[c] / k_size, mine[c]);
      mine[c] = now;
      sum = fmaf(now, query[c] / q_size / scale, sum);
    }
    sum = warp_sum(sum);
    if (lane_id() == 0) out[(i64)t * heads * value_dim + row] = stored(sum, bf16);
  }
}

// One warp a row of the state. q, k (T, heads, Dk); v, out (T, heads, Dv); keep (heads,): what a
// state is multiplied by each token; before, state (heads, Dv, Dk).
extern "C" __global__ void lightning(float *out, float *state, const float *q, const float *k,
                                     const float *v, const float *keep, const float *before,
                                     int tokens, int heads, int key_dim, int value_dim, int bf16) {
  int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (row >= heads * value_dim) return;  // a whole warp
  int head = row / value_dim;
  float *mine = state + (i64)row * key_dim;
  const float *old = before + (i64)row * key_dim;
#pragma unroll 1
  for (int t = 0; t < tokens; ++t) {
    const float *key = k + ((i64)t * heads + head) * key_dim;
    const float *query = q + ((i64)t * heads + head) * key_dim;
    float value = v[(i64)t * heads * value_dim + row], sum = 0.0f;
#pragma unroll 1
    for (int c = lane_id(); c < key_dim; c += WARP) {  // a token's own key is not faded
      float now = fmaf(value, key[c], keep[head] * (t ? mine[c] : old[c]));
      mine[c] = now;
      sum = fmaf(now, query[c], sum);
    }
    sum = warp_sum(sum);
    if (lane_id() == 0) out[(i64)t * heads * value_dim + row] = stored(sum, bf16);
  }
}
