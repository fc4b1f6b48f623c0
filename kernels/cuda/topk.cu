// uses: choosing.cuh
//
// Step 2 of routing: the K best of each row of `choice` (tokens, experts): ids (tokens, K), best
// first, and margin (tokens,). What it must equal: `select` of tinymoe/model/router.py, whose ids
// are in ascending order. Nobody has run it on a GPU yet.

// First rung: one thread a token. No list of those taken is needed: all places differ, so the next
// one is the best of those below the last.
extern "C" __global__ void topk_naive(i64 *ids, float *margin, const float *choice, int tokens,
                                      int experts, int top_k) {
  int t = blockIdx.x * blockDim.x + threadIdx.x;
  if (t >= tokens) return;
  u64 last = ~0ull;
#pragma unroll 1
  for (int k = 0; k <= top_k; ++k) {
    u64 best = 0;
#pragma unroll 1
    for (int e = 0; e < experts; ++e) {
      u64 place = place_of(order_of(choice[(i64)t * experts + e]), e);
      if (place < last && place > best) best = place;
    }
    if (k == top_k) {
      float in = value_of(order_at(last)), out = value_of(order_at(best));
      margin[t] = top_k < experts ? in - out : INF;
    } else {
      ids[(i64)t * top_k + k] = index_at(best);
    }
    last = best;
  }
}

// Second rung: one warp a token. The row is read again in every round, each time by all lanes, and
// from the second time on out of the cache. Any number of experts and of choices.
extern "C" __global__ void topk_any(i64 *ids, float *margin, const float *choice, int tokens,
                                    int experts, int top_k) {
  int t = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
  if (t >= tokens) return;
  u64 last = ~0ull;
#pragma unroll 1
  for (int k = 0; k <= top_k; ++k) {
    u64 best = 0;
#pragma unroll 1
    for (int e = lane_id(); e < experts; e += WARP) {
      u64 place = place_of(order_of(choice[(i64)t * experts + e]), e);
      if (place < last && place > best) best = place;
    }
    best = warp_best(best);
    if (lane_id() == 0) {
      if (k < top_k) ids[(i64)t * top_k + k] = index_at(best);
      else margin[t] = top_k < experts ? value_of(order_at(last)) - value_of(order_at(best)) : INF;
    }
    last = best;
  }
}

// Third rung: the row is read once and stays in registers; K at most 32.
template <int J>
__device__ __forceinline__ void topk_warp(i64 *ids, float *margin, const float *choice, int tokens,
                                          int experts, int top_k) {
  int t = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
  if (t >= tokens) return;
  float x[J], gap;
  load_row(x, choice + (i64)t * experts, experts, -INF);
  int mine = choose_of_row(x, experts, top_k, &gap);
  if (lane_id() < top_k) ids[(i64)t * top_k + lane_id()] = mine;
  if (lane_id() == 0) margin[t] = gap;
}

#define TOPK(J, MOST)                                                                            \
  extern "C" __global__ void topk_##MOST(i64 *ids, float *margin, const float *choice, int tokens, \
                                         int experts, int top_k) {                               \
    topk_warp<J>(ids, margin, choice, tokens, experts, top_k);                                   \
  }
TOPK(1, 32)
TOPK(4, 128)
TOPK(16, 512)
