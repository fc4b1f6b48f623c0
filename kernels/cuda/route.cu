// uses: choosing.cuh grouping.cuh weighing.cuh
//
// Routing in one launch: logits (tokens, experts) to scores, ids, weights and margin. One warp a
// token; a row is read once and stays in registers. What it must equal: `route_logits` of
// tinymoe/model/router.py. Nobody has run it on a GPU yet.
//
// It is scores.cu, groups.cu, topk.cu and weights.cu without the arrays between them. At decode,
// with a few tokens, those arrays cost little and the launches cost most: five of them take longer
// than the work. K at most 32, groups at most 32, experts at most 512.

// Lane k holds the k-th chosen expert and its logit x; the row is in `row`. Its raw weight.
template <int J>
__device__ __forceinline__ float weight_of(int weight_from, int kind, const float (&row)[J], int id,
                                           float x, int top_k, float top, float total) {
  if (weight_from == FROM_SCORE) return score_of(kind, x, top, total);
  if (weight_from == FROM_SIGMOID) return sigmoid_of(x);
  if (weight_from == FROM_SOFTMAX) {
    float one[1] = {lane_id() < top_k ? x : -INF};
    softmax_of_row(one, &top, &total);
    return score_of(SOFTMAX, x, top, total);
  }
  u64 mine = lane_id() < 2 ? place_of(order_of(x), id) : 0;  // sparse mixer: K is 2
  int best = index_at(warp_best(mine));
  float weight = 0.0f;
#pragma unroll 1
  for (int k = 0; k < 2; ++k) {  // each of the two in turn, with the whole warp summing
    int own = __shfl_sync(ALL, id, k);
    float high = __shfl_sync(ALL, x, k), sum = 0.0f;
#pragma unroll
    for (int j = 0; j < J; ++j)
      if (own == best || lane_id() + WARP * j != best) sum += rival(row[j], high);
    sum = warp_sum(sum);
    if (lane_id() == k) weight = 1.0f / sum;
  }
  return weight;
}

template <int J>
__device__ __forceinline__ void route_token(
    float *scores, i64 *ids, float *weights, float *margin, const float *logits, const float *bias,
    int tokens, int experts, int top_k, int kind, int groups, int kept, int top2, int to_zero,
    int weight_from, int renormalise, float epsilon, float floor, float scale) {
  int t = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = lane_id();
  if (t >= tokens) return;
  i64 start = (i64)t * experts;
  float x[J], choice[J], top = 0.0f, total = 1.0f, gap;
  load_row(x, logits + start, experts, -INF);
  if (kind == SOFTMAX) softmax_of_row(x, &top, &total);
#pragma unroll
  for (int j = 0; j < J; ++j) choice[j] = score_of(kind, x[j], top, total);
  if (scores) store_row(scores + start, choice, experts);
  if (bias) {
#pragma unroll
    for (int j = 0; j < J; ++j)
      if (lane + WARP * j < experts) choice[j] += bias[lane + WARP * j];
  }
  if (kept < groups) drop_groups_of_row(choice, experts, groups, kept, top2, to_zero);
  int id = choose_of_row(choice, experts, top_k, &gap);
  // The logit of lane k's own expert lies in another lane's register, and which one differs from
  // lane to lane: reading it again costs one load from the cache.
  float own = logits[start + id];
  float weight = weight_of(weight_from, kind, x, id, own, top_k, top, total);
  if (renormalise) weight /= divisor_of(warp_sum(lane < top_k ? weight : 0.0f), epsilon, floor);
  weight *= scale;
  u64 place = lane < top_k ? place_of(order_of(weight), id) : 0;
  int rank = 0;  // how many are before: where this one goes
#pragma unroll 1
  for (int k = 0; k < top_k; ++k) rank += __shfl_sync(ALL, place, k) > place;
  if (lane < top_k) {
    ids[(i64)t * top_k + rank] = id;
    weights[(i64)t * top_k + rank] = weight;
  }
  if (lane == 0) margin[t] = gap;
}

// `scores` and `bias` may be null: nobody wants the scores, there is no bias.
#define ROUTE(J, MOST)                                                                            \
  extern "C" __global__ void route_##MOST(                                                        \
      float *scores, i64 *ids, float *weights, float *margin, const float *logits,                \
      const float *bias, int tokens, int experts, int top_k, int kind, int groups, int kept,      \
      int top2, int to_zero, int weight_from, int renormalise, float epsilon, float floor,        \
      float scale) {                                                                              \
    route_token<J>(scores, ids, weights, margin, logits, bias, tokens, experts, top_k, kind,      \
                   groups, kept, top2, to_zero, weight_from, renormalise, epsilon, floor, scale); \
  }
ROUTE(1, 32)
ROUTE(4, 128)
ROUTE(16, 512)
