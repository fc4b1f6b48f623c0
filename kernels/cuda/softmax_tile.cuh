// uses: prims.cuh ieee.cuh
//
// Softmax over keys that come 32 at a time ("online" softmax, Milakov and Gimelshein 2018,
// arXiv:1805.02867; FlashAttention, Dao et al. 2022, arXiv:2205.14135), by one warp for one query.
//
// The warp keeps the largest score so far, the sum of e^(score - top), and the values mixed by
// those weights. A tile with a larger score makes all that too large by the same factor, so it is
// shrunk first. Lane l owns dimensions l, l + 32, ... of the query and of the mix: so neighbouring
// lanes read neighbouring numbers of a key, and no number is ever held by two lanes.
//
// Tiles begin at positions 0, 32, 64, ... of the sequence, wherever the query stands and whatever
// window hides. So the order of all sums depends on the query's position alone: a prompt has the
// same bits however it is cut (vllm#26042), and as decoded token by token.
//
// Roundings. The largest score's own e^0 is 1, exactly. Any other passes at most one shrinking a
// tile: e^x (expf: 2 units in the last place, 4 u) and a product, 5 u, on top of its own e^x and
// the sums, in which the divisor's first 32 terms go through a tree of 5. Over n keys in 1 + n/32
// tiles that stays below the 2 (n + 6) + 4 u that kernels/checks.py grants a softmax in any order.

#define TILE 32

template <int CHUNKS>
struct Looking {
  float q[CHUNKS];    // the query: dimension lane + 32 c
  float mix[CHUNKS];  // the values so far
  float top, total;
};

// Before the first key. A sink (gpt-oss) is a score that takes its share and has no value: the sum
// begins with it. Without one it begins with nothing, and e^(-inf - top) = 0 shrinks that.
template <int CHUNKS>
__device__ __forceinline__ void begin(Looking<CHUNKS> &me, const float *q, int size,
                                      const float *sink) {
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    int d = lane_id() + WARP * c;
    me.q[c] = d < size ? q[d] : 0.0f;
    me.mix[c] = 0.0f;
  }
  me.top = sink ? *sink : -INF;
  me.total = sink ? 1.0f : 0.0f;
}

// Lane j holds where key j of the tile lies (`row`, each `step` numbers); bit j of `seen` says
// whether it is seen. A key that is not is
// never read: behind it may lie another sequence's, or NaN, which 0 times NaN would not take out.
// The score of key j ends in lane j, all others hold -inf.
template <int CHUNKS>
__device__ __forceinline__ float scores_of(const Looking<CHUNKS> &me, const float *keys,
                                           int size, int step, int row, u32 seen, float scale) {
  float score = -INF;
  for (u32 left = seen; left; left &= left - 1) {
    int j = __ffs(left) - 1;
    const float *key = keys + (i64)__shfl_sync(ALL, row, j) * step;
    float dot = 0.0f;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
      int d = lane_id() + WARP * c;
      if (d < size) dot = fmaf(me.q[c], key[d], dot);
    }
    dot = warp_sum(dot) * scale;
    if (lane_id() == j) score = dot;
  }
  return score;
}

// Scores to weights, and what was gathered so far shrunk to the same top.
template <int CHUNKS>
__device__ __forceinline__ float weights_of(Looking<CHUNKS> &me, float score) {
  float top = max_nan(me.top, warp_max(score));
  float shrink = expf(me.top - top), weight = expf(score - top);  // e^-inf is 0
  me.top = top;
  me.total = fmaf(me.total, shrink, warp_sum(weight));
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) me.mix[c] *= shrink;
  return weight;
}

// The tile's values, added by weight. `step`: numbers from one row to the next, `size` or more.
template <int CHUNKS>
__device__ __forceinline__ void mix_in(Looking<CHUNKS> &me, const float *values, int size, int step,
                                       int row, u32 seen, float weight) {
  for (u32 left = seen; left; left &= left - 1) {
    int j = __ffs(left) - 1;
    const float *value = values + (i64)__shfl_sync(ALL, row, j) * step;
    float share = __shfl_sync(ALL, weight, j);
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
      int d = lane_id() + WARP * c;
      if (d < size) me.mix[c] = fmaf(share, value[d], me.mix[c]);
    }
  }
}

template <int CHUNKS>
__device__ __forceinline__ void finish(const Looking<CHUNKS> &me, float *out, int size, int bf16) {
#pragma unroll
  for (int c = 0; c < CHUNKS; ++c) {
    int d = lane_id() + WARP * c;
    if (d < size) out[d] = stored(me.mix[c] / me.total, bf16);
  }
}
