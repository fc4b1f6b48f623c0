// uses: dots.cuh expert_tile.cuh swiglu.cuh ieee.cuh
//
// All experts over their own rows: down @ (silu(gate @ x) * (up @ x)). What it must equal:
// tinymoe/model/experts.py. Nobody has run it on a GPU yet.
//
// x (rows, H) in expert order, offsets (E + 1,); gate_up (E, 2I, H), the gate's I rows first;
// down (E, H, I); biases (E, 2I) and (E, H), or null pointers. Two rungs: three plain kernels, or
// two in which each weight is read once for a tile of rows and the gate and up products never go to
// memory.

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

// hidden (rows, width). One warp a column of a tile: grid (width / warps, tiles at worst).
template <int ROWS>
__device__ __forceinline__ void gate_up_tile(float *hidden, const float *x, const float *gate_up,
                                             const float *biases, const i64 *offsets, int experts,
                                             int in, int width, int clamped, float limit,
                                             float alpha, int bf16) {
  Part part = part_of<ROWS>(blockIdx.y, offsets, experts);
  int column = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (!part.rows || column >= width) return;  // whole warps
  const float *w = gate_up + ((i64)part.expert * 2 * width + column) * in;
  float gates[ROWS], ups[ROWS];
  x += (i64)part.row * in;
  dots<ROWS>(gates, x, part.rows, w, in);
  dots<ROWS>(ups, x, part.rows, w + (i64)width * in, in);
  float gate = own_sum(gates), up = own_sum(ups);
  if (lane_id() >= part.rows) return;
  if (biases) {
    gate += biases[part.expert * 2 * width + column];
    up += biases[part.expert * 2 * width + width + column];
  }
  // rounded to storage as if they went to memory: that is what the definition says they are
  float mixed = swiglu(stored(gate, bf16), stored(up, bf16), clamped, limit, alpha);
  hidden[(i64)(part.row + lane_id()) * width + column] = stored(mixed, bf16);
}

// out (rows, outs). Grid (outs / warps, tiles at worst).
template <int ROWS>
__device__ __forceinline__ void down_tile(float *out, const float *hidden, const float *down,
                                          const float *biases, const i64 *offsets, int experts,
                                          int in, int outs, int bf16) {
  Part part = part_of<ROWS>(blockIdx.y, offsets, experts);
  int column = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (!part.rows || column >= outs) return;
  float sums[ROWS];
  dots<ROWS>(sums, hidden + (i64)part.row * in, part.rows,
             down + ((i64)part.expert * outs + column) * in, in);
  float sum = own_sum(sums);
  if (lane_id() >= part.rows) return;
  if (biases) sum += biases[part.expert * outs + column];
  out[(i64)(part.row + lane_id()) * outs + column] = stored(sum, bf16);
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
