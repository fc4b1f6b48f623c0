// uses: dot_tile.cuh expert_tile.cuh swiglu.cuh ieee.cuh
//
// All experts over their own rows: down @ (silu(gate @ x) * (up @ x)). What it must equal:
// tinymoe/model/experts.py. Nobody has run it on a GPU yet.
//
// x (rows, H) in expert order, offsets (E + 1,); gate_up (E, 2I, H), the gate's I rows first;
// down (E, H, I); biases (E, 2I) and (E, H), or null pointers. Two rungs with the same bits: three
// plain kernels, or two in which each weight is read once for a tile of rows and the gate and up
// products never go to memory.

// out (rows, outs): one thread an output, which looks for its row's expert.
extern "C" __global__ void grouped_naive(float *out, const float *x, const float *weights,
                                         const float *biases, const i64 *offsets, int rows, int in,
                                         int outs, int bf16) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows * outs) return;
  int row = i / outs, column = i % outs, expert = 0;
  while (offsets[expert + 1] <= row) ++expert;
  const float *w = weights + ((i64)expert * outs + column) * in;
  float sum = 0.0f;
#pragma unroll 1
  for (int k = 0; k < in; ++k) sum = fmaf(x[(i64)row * in + k], w[k], sum);
  if (biases) sum += biases[expert * outs + column];
  out[i] = stored(sum, bf16);
}

// out (rows, width) of gate_up (rows, 2 width).
extern "C" __global__ void swiglu_naive(float *out, const float *gate_up, int rows, int width,
                                        int clamped, float limit, float alpha, int bf16) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows * width) return;
  const float *gate = gate_up + (i64)(i / width) * 2 * width + i % width;
  out[i] = stored(swiglu(gate[0], gate[width], clamped, limit, alpha), bf16);
}

// hidden (rows, width). Grid (width / 64, tiles at worst), block 64.
template <int ROWS>
__device__ __forceinline__ void gate_up_tile(float *hidden, const float *x, const float *gate_up,
                                             const float *biases, const i64 *offsets, int experts,
                                             int in, int width, int clamped, float limit,
                                             float alpha, int bf16) {
  __shared__ Stage<ROWS> stage;
  Part part = part_of<ROWS>(blockIdx.y, offsets, experts);
  if (!part.rows) return;  // the whole block
  int first = blockIdx.x * COLUMNS, column = first + threadIdx.x;
  int columns = min(COLUMNS, width - first);
  const float *w = gate_up + ((i64)part.expert * 2 * width + first) * in;
  float gate[ROWS], up[ROWS];
  x += (i64)part.row * in;
  dot_tile<ROWS>(gate, stage, x, part.rows, w, columns, in);
  dot_tile<ROWS>(up, stage, x, part.rows, w + (i64)width * in, columns, in);
  if (column >= width) return;
  float gate_bias = 0.0f, up_bias = 0.0f;
  if (biases) {
    gate_bias = biases[part.expert * 2 * width + column];
    up_bias = biases[part.expert * 2 * width + width + column];
  }
#pragma unroll
  for (int m = 0; m < ROWS; ++m) {
    if (m >= part.rows) break;
    // rounded to storage as if they went to memory: that is what the definition says they are
    float g = stored(gate[m] + gate_bias, bf16), u = stored(up[m] + up_bias, bf16);
    hidden[(i64)(part.row + m) * width + column] =
        stored(swiglu(g, u, clamped, limit, alpha), bf16);
  }
}

// out (rows, outs). Grid (outs / 64, tiles at worst), block 64.
template <int ROWS>
__device__ __forceinline__ void down_tile(float *out, const float *hidden, const float *down,
                                          const float *biases, const i64 *offsets, int experts,
                                          int in, int outs, int bf16) {
  __shared__ Stage<ROWS> stage;
  Part part = part_of<ROWS>(blockIdx.y, offsets, experts);
  if (!part.rows) return;
  int first = blockIdx.x * COLUMNS, column = first + threadIdx.x;
  float sum[ROWS];
  dot_tile<ROWS>(sum, stage, hidden + (i64)part.row * in, part.rows,
                 down + ((i64)part.expert * outs + first) * in, min(COLUMNS, outs - first), in);
  if (column >= outs) return;
  float bias = biases ? biases[part.expert * outs + column] : 0.0f;
#pragma unroll
  for (int m = 0; m < ROWS; ++m)
    if (m < part.rows) out[(i64)(part.row + m) * outs + column] = stored(sum[m] + bias, bf16);
}

// Rows of a tile: 8 for prompts; 1 where a step has so few tokens that experts seldom share one.
#define ENTRIES(ROWS)                                                                             \
  extern "C" __global__ void experts_gate_up_##ROWS(                                              \
      float *hidden, const float *x, const float *gate_up, const float *biases,                   \
      const i64 *offsets, int experts, int in, int width, int clamped, float limit, float alpha,  \
      int bf16) {                                                                                 \
    gate_up_tile<ROWS>(hidden, x, gate_up, biases, offsets, experts, in, width, clamped, limit,   \
                       alpha, bf16);                                                              \
  }                                                                                               \
  extern "C" __global__ void experts_down_##ROWS(                                                 \
      float *out, const float *hidden, const float *down, const float *biases,                    \
      const i64 *offsets, int experts, int in, int outs, int bf16) {                              \
    down_tile<ROWS>(out, hidden, down, biases, offsets, experts, in, outs, bf16);                 \
  }

ENTRIES(1)
ENTRIES(8)
