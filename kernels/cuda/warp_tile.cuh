// uses: prims.cuh ieee.cuh fp4.cuh tensor_core.cuh
// One warp's share of a product, 16 rows by 32 columns: what is the same for every tensor core.
//
// Sums stay in registers from the first k to the last. Nothing is shared between warps, so there is
// no shared memory and no barrier. Rows and columns beyond the matrix are computed like others, on
// the last one that exists, and not stored: no row of a product reaches into another.

#define WARPS 4       // of a block, side by side along the columns
#define TILE_ROWS 16  // of a block: few, as experts often have few rows
#define WARP_COLUMNS 32
#define TILE_COLUMNS (WARPS * WARP_COLUMNS)

#define WARP_ID (threadIdx.x / WARP)

// Four blocks on a multiprocessor at least, so 128 registers a thread. Not told so, ptxas aims at
// more blocks than that and spills 16 bytes of one kernel to memory.
#define BOUNDS __launch_bounds__(WARPS * WARP, 4)

typedef float Sums[4][4];  // [group of 8 columns][d of tensor_core.cuh]

// The row of a matrix that a lane loads: its own, or the last.
__device__ __forceinline__ int row_or_last(int row, int end) { return min(row, end - 1); }

// alpha times the sums into out (rows, N), what lies inside of it.
__device__ __forceinline__ void store_tile(float* out, const Sums& d, float alpha, int row0,
                                           int end, int column0, int N, int to_bf16) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = row0 + GROUP + 8 * half;
    if (row >= end) return;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      int column = column0 + 8 * (i / 2) + 2 * MEMBER + i % 2;
      float sum = d[i / 2][2 * half + i % 2];
      if (column < N) out[(i64)row * N + column] = stored(alpha * sum, to_bf16);
    }
  }
}

// One tile of x times w: rows from row0, and this warp's columns of those from `block0`.
// Math::product gives the sums; `x` is what it takes for a left operand.
template <class Math, class X>
__device__ __forceinline__ void tile(float* out, const X& x, int row0, const Rows& w, int block0,
                                     float alpha, int reading, int to_bf16) {
  int column = block0 + WARP_ID * WARP_COLUMNS;
  if (column >= w.end) return;  // the whole warp: what is left is complete, as an mma wants it
  Sums d = {};
  Math::product(d, x, row0, w, column, column + 16, reading);
  store_tile(out, d, alpha, row0, x.end, column, w.end, to_bf16);
}
