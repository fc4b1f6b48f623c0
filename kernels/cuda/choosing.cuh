// uses: order.cuh scoring.cuh
// The K best of a row that a warp holds; what it must equal: `select` of tinymoe/model/router.py.

// Lane k gets the expert that came k-th (K at most 32). All lanes get the margin: the last value
// taken minus the best one left, infinite if none is left.
//
// K + 1 rounds: each lane offers its best, the warp takes the best of the offers, and its owner
// strikes it out. Sorting the row would cost more until K is near E.
template <int J>
__device__ __forceinline__ int choose_of_row(const float (&choice)[J], int experts, int top_k,
                                             float *margin) {
  u32 order[J];
  int lane = lane_id(), mine = 0;
#pragma unroll
  for (int j = 0; j < J; ++j)
    order[j] = lane + WARP * j < experts ? order_of(choice[j]) : TAKEN;
  float last = 0.0f;
#pragma unroll 1
  for (int k = 0; k < top_k; ++k) {
    u64 best = 0;
#pragma unroll
    for (int j = 0; j < J; ++j) best = max(best, place_of(order[j], lane + WARP * j));
    best = warp_best(best);
    int e = index_at(best);
    if (lane == k) mine = e;
#pragma unroll
    for (int j = 0; j < J; ++j)
      if (lane + WARP * j == e) order[j] = TAKEN;
    last = value_of(order_at(best));
  }
  u64 left = 0;
#pragma unroll
  for (int j = 0; j < J; ++j) left = max(left, place_of(order[j], lane + WARP * j));
  left = warp_best(left);
  *margin = top_k < experts ? last - value_of(order_at(left)) : INF;
  return mine;
}
