// uses: dot_tile.cuh ieee.cuh
//
// x (tokens, in) times weight (outs, in) transposed, plus bias (outs,) if there is one (else a null
// pointer). What it must equal: tinymoe/model/precision.py. Nobody has run it on a GPU yet.
//
// Three rungs. The first two have the same bits, see dot_tile.cuh; the third adds up in another
// order and is here to be compared.

__device__ __forceinline__ void put(float *out, float sum, const float *bias, int column,
                                    int bf16) {
  *out = stored(bias ? sum + bias[column] : sum, bf16);
}

// One thread an output: every weight is read `tokens` times, every x `outs` times.
extern "C" __global__ void linear_naive(float *out, const float *x, const float *weight,
                                        const float *bias, int tokens, int in, int outs, int bf16) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= tokens * outs) return;
  int token = i / outs, column = i % outs;
  float sum = 0.0f;
#pragma unroll 1
  for (int k = 0; k < in; ++k)
    sum = fmaf(x[(i64)token * in + k], weight[(i64)column * in + k], sum);
  put(out + i, sum, bias, column, bf16);
}

template <int ROWS>
__device__ __forceinline__ void tile_of(float *out, const float *x, const float *weight,
                                        const float *bias, int tokens, int in, int outs,
                                        int bf16) {
  __shared__ Stage<ROWS> stage;
  int token = blockIdx.y * ROWS, first = blockIdx.x * COLUMNS, column = first + threadIdx.x;
  int rows = min(ROWS, tokens - token), columns = min(COLUMNS, outs - first);
  float sum[ROWS];
  dot_tile<ROWS>(sum, stage, x + (i64)token * in, rows, weight + (i64)first * in, columns, in);
#pragma unroll
  for (int m = 0; m < ROWS; ++m)
    if (m < rows && column < outs)
      put(out + (i64)(token + m) * outs + column, sum[m], bias, column, bf16);
}

// Tiles: a weight is read once for 8 tokens. Grid (outs / 64, tokens / 8), rounded up.
extern "C" __global__ void linear_8(float *out, const float *x, const float *weight,
                                    const float *bias, int tokens, int in, int outs, int bf16) {
  tile_of<8>(out, x, weight, bias, tokens, in, outs, bf16);
}

// The same for one token, which has no use for seven more.
extern "C" __global__ void linear_1(float *out, const float *x, const float *weight,
                                    const float *bias, int tokens, int in, int outs, int bf16) {
  tile_of<1>(out, x, weight, bias, tokens, in, outs, bf16);
}

// One warp an output, its lanes along the sum: 32 times the threads of `linear_1`, which a large
// GPU needs to keep its memory busy when there is one token. The 32 partial sums make another
// order: a model that used this for one token and `linear_8` for more would give a prompt other
// bits by how it was cut. Grid (outs / warps of a block, tokens).
extern "C" __global__ void linear_warp(float *out, const float *x, const float *weight,
                                       const float *bias, int tokens, int in, int outs, int bf16) {
  int column = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, token = blockIdx.y;
  if (column >= outs) return;  // whole warps leave, so the shuffles below stay complete
  float sum = 0.0f;
  for (int k = lane_id(); k < in; k += WARP)
    sum = fmaf(x[(i64)token * in + k], weight[(i64)column * in + k], sum);
  sum = warp_sum(sum);
  if (lane_id() == 0) put(out + (i64)token * outs + column, sum, bias, column, bf16);
}
