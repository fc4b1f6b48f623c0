// uses: order.cuh scoring.cuh
// Group-limited selection (DeepSeek-V3): experts in G equal, consecutive groups, of which the best
// few may be chosen from. What it must equal: `drop_groups` of tinymoe/model/router.py.

// The best two of what has been seen. `second` of a single number is -inf.
struct Top2 {
  float first, second;
};

// NaN stays in `first`, so a group with a NaN is rated NaN, and NaN is below every number.
__device__ __forceinline__ Top2 merged(Top2 a, Top2 b) {
  float low = fminf(a.first, b.first), high = fmaxf(a.second, b.second);
  Top2 both = {max_nan(a.first, b.first), fmaxf(low, high)};
  return both;
}

// A group's rating: its best member, or the sum of its two best.
__device__ __forceinline__ float rating_of(Top2 best, int top2) {
  return top2 ? best.first + best.second : best.first;
}

// What becomes of a member of a dropped group. NaN stays: were it masked in some groups only,
// those would win (vllm#39288). A mask of 0 lets a forbidden expert win once biased scores are
// negative (vllm#13474); which of the two it is, the checkpoint's own code says.
__device__ __forceinline__ float dropped(float x, int to_zero) {
  return x != x ? x : (to_zero ? 0.0f : -INF);
}

// For a warp that holds a row: the same for all its elements. At most 32 groups, one a lane.
template <int J>
__device__ __forceinline__ void drop_groups_of_row(float (&x)[J], int experts, int groups, int kept,
                                                   int top2, int to_zero) {
  int size = experts / groups, lane = lane_id();
  u64 mine = 0;  // lane g: the place of group g among groups; lanes without a group below all
#pragma unroll 1
  for (int g = 0; g < groups; ++g) {
    int first = g * size;
    Top2 best = {-INF, -INF};
#pragma unroll
    for (int j = 0; j < J; ++j) {
      Top2 one = {x[j], -INF};
      if (lane + WARP * j >= first && lane + WARP * j < first + size) best = merged(best, one);
    }
#pragma unroll
    for (int o = WARP / 2; o > 0; o >>= 1) {
      Top2 other = {__shfl_xor_sync(ALL, best.first, o), __shfl_xor_sync(ALL, best.second, o)};
      best = merged(best, other);  // of disjoint halves: nobody is counted twice
    }
    if (lane == g) mine = place_of(order_of(rating_of(best, top2)), g);
  }
  int better = 0;
#pragma unroll 1
  for (int g = 0; g < groups; ++g) better += __shfl_sync(ALL, mine, g) > mine;
  u32 stay = __ballot_sync(ALL, lane < groups && better < kept);  // bit g: group g is kept
#pragma unroll
  for (int j = 0; j < J; ++j) {
    int e = lane + WARP * j;
    if (e < experts && !(stay >> (e / size) & 1)) x[j] = dropped(x[j], to_zero);
  }
}
