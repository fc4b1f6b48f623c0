// uses: order.cuh weighing.cuh
//
// Steps 3 to 5 of routing: the weights of chosen experts, and the order of a row by weight. What
// it must equal: `gather`, `renorm`, `scale` and `by_weight` of tinymoe/model/router.py. Nobody
// has run it on a GPU yet. The third rung, for K up to 32, is a part of route.cu.
//
// `unroll 1`: K is seldom more than a warp, so copies of a loop's body for eight rounds at a time
// would be code that nobody comes to.

// The sparse mixer's weight of a logit; `without`: the expert that is out of its way, or -1.
__device__ float mixed(const float *x, int experts, float top, i64 without) {
  float total = 0.0f;
#pragma unroll 1
  for (int e = 0; e < experts; ++e)
    if (e != without) total += rival(x[e], top);
  return 1.0f / total;
}

// What the K chosen logits need of each other, before they become weights.
struct Chosen {
  float top, total;  // of their softmax
};

// The k-th raw weight of a token.
__device__ float raw_weight(int k, const i64 *ids, const float *x, const float *scores, int experts,
                            Chosen all, int weight_from) {
  float own = x[ids[k]];
  if (weight_from == FROM_SCORE) return scores[ids[k]];
  if (weight_from != FROM_SPARSEMIXER)
    return score_of(weight_from == FROM_SOFTMAX ? SOFTMAX : SIGMOID, own, all.top, all.total);
  i64 other = ids[1 - k];
  bool second = place_of(order_of(x[other]), (int)other) > place_of(order_of(own), (int)ids[k]);
  return mixed(x, experts, own, second ? other : -1);
}

// First rung: one thread a token. chosen, ids (tokens, K): the ids come in any order and leave by
// weight, largest first, equal weights by id. Sums go in the order in which the ids came. `raw`
// (tokens, K) is the second rung's.
extern "C" __global__ void weights_naive(float *weights, i64 *ids, float *raw, const i64 *chosen,
                                         const float *logits, const float *scores, int tokens,
                                         int experts, int top_k, int weight_from, int renormalise,
                                         float epsilon, float floor, float scale) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= tokens) return;
  float *w = weights + (i64)t * top_k;
  i64 *id = ids + (i64)t * top_k;
  i64 row = (i64)t * experts;
  const i64 *from = chosen + (i64)t * top_k;
  const float *x = logits + row;
  Chosen all = {-INF, 0.0f};
#pragma unroll 1
  for (int k = 0; k < top_k; ++k) all.top = max_nan(all.top, x[from[k]]);
#pragma unroll 1
  for (int k = 0; k < top_k; ++k) all.total += expf(x[from[k]] - all.top);
  float total = 0.0f;
#pragma unroll 1
  for (int k = 0; k < top_k; ++k)
    total += raw_weight(k, from, x, scores + row, experts, all, weight_from);
  total = renormalise ? divisor_of(total, epsilon, floor) : 1.0f;
#pragma unroll 1
  for (int k = 0; k < top_k; ++k) {  // insertion: each goes left past all that it beats
    float own = raw_weight(k, from, x, scores + row, experts, all, weight_from) / total * scale;
    int expert = (int)from[k], at = k;
    u64 place = place_of(order_of(own), expert);
    for (; at > 0 && place > place_of(order_of(w[at - 1]), (int)id[at - 1]); --at) {
      w[at] = w[at - 1];
      id[at] = id[at - 1];
    }
    w[at] = own;
    id[at] = expert;
  }
}

// Second rung: one warp a token, any K. Who comes before me? As many as have a better place: K
// comparisons each, none of them waiting for another, where the insertion is one long chain.
extern "C" __global__ void weights_warp(float *weights, i64 *ids, float *raw, const i64 *chosen,
                                        const float *logits, const float *scores, int tokens,
                                        int experts, int top_k, int weight_from, int renormalise,
                                        float epsilon, float floor, float scale) {
  int t = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
  if (t >= tokens) return;
  i64 first = (i64)t * top_k, row = (i64)t * experts;
  const i64 *from = chosen + first;
  const float *x = logits + row;
  float *own = raw + first;
  Chosen all = {-INF, 0.0f};
#pragma unroll 1
  for (int k = lane_id(); k < top_k; k += WARP) all.top = max_nan(all.top, x[from[k]]);
  all.top = warp_max(all.top);
#pragma unroll 1
  for (int k = lane_id(); k < top_k; k += WARP) all.total += expf(x[from[k]] - all.top);
  all.total = warp_sum(all.total);
  float total = 0.0f;
#pragma unroll 1
  for (int k = lane_id(); k < top_k; k += WARP)
    total += own[k] = raw_weight(k, from, x, scores + row, experts, all, weight_from);
  total = warp_sum(total);
  total = renormalise ? divisor_of(total, epsilon, floor) : 1.0f;
#pragma unroll 1
  for (int k = lane_id(); k < top_k; k += WARP) own[k] = own[k] / total * scale;
  __syncwarp();  // all weights are there for all lanes
#pragma unroll 1
  for (int k = lane_id(); k < top_k; k += WARP) {
    u64 place = place_of(order_of(own[k]), (int)from[k]);
    int rank = 0;
#pragma unroll 1
    for (int j = 0; j < top_k; ++j) rank += place_of(order_of(own[j]), (int)from[j]) > place;
    weights[first + rank] = own[k];
    ids[first + rank] = from[k];
  }
}
