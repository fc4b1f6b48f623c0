// uses: dots.cuh ieee.cuh
//
// x (tokens, in) times weight (outs, in) transposed, plus bias (outs,) if there is one (else a null
// pointer). What it must equal: tinymoe/model/precision.py. Nobody has run it on a GPU yet.

__device__ __forceinline__ float biased(float sum, const float *bias, int column, int bf16) {
  return stored(bias ? sum + bias[column] : sum, bf16);
}

// First rung: one thread an output. Neighbouring threads read addresses a whole row apart.
extern "C" __global__ void linear_naive(float *out, const float *x, const float *weight,
                                        const float *bias, int tokens, int in, int outs, int bf16) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= tokens * outs) return;
  int token = i / outs, column = i % outs;
  float sum = 0.0f;
#pragma unroll 1
  for (int k = 0; k < in; ++k)
    sum = fmaf(x[(i64)token * in + k], weight[(i64)column * in + k], sum);
  out[i] = biased(sum, bias, column, bf16);
}

template <int ROWS>
__device__ __forceinline__ void by_warp(float *out, const float *x, const float *weight,
                                        const float *bias, int tokens, int in, int outs,
                                        int bf16) {
  int column = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  int token = blockIdx.y * ROWS, rows = min(ROWS, tokens - token);
  if (column >= outs) return;  // whole warps leave, so the shuffles stay complete
  float sum[ROWS];
  dots<ROWS>(sum, x + (i64)token * in, rows, weight + (i64)column * in, in);
  float own = own_sum(sum);
  if (lane_id() < rows)
    out[(i64)(token + lane_id()) * outs + column] = biased(own, bias, column, bf16);
}

// Second rung: one warp an output. With one token there is not much work, and a GPU needs 32 times
// the threads of the first rung to keep its memory busy.
// Grid (outs / warps of a block, tokens).
extern "C" __global__ void linear_1(float *out, const float *x, const float *weight,
                                    const float *bias, int tokens, int in, int outs, int bf16) {
  by_warp<1>(out, x, weight, bias, tokens, in, outs, bf16);
}

// Third rung: each weight is read once for 8 tokens. The same bits as the second.
// Grid (outs / warps of a block, tokens / 8), rounded up.
extern "C" __global__ void linear_8(float *out, const float *x, const float *weight,
                                    const float *bias, int tokens, int in, int outs, int bf16) {
  by_warp<8>(out, x, weight, bias, tokens, in, outs, bf16);
}
