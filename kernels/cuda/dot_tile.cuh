// uses: prims.cuh
//
// One tile of x W': ROWS rows of x against COLUMNS rows of W, by COLUMNS threads.
//
// Thread c owns column c for all rows of the tile, in registers. The sum over `in` goes STEP terms
// at a time: the block copies that stretch of W and x to shared memory, where neighbouring threads
// read neighbouring addresses (a row of W is 128 bytes here, four full sectors), and then each
// thread reads its own row of W, once for all rows of x.
//
// Every sum runs over k = 0, 1, 2, ... by one thread, whatever ROWS is. So a token has the same
// bits alone and in company ("batch invariance"), and `linear_naive` has them too.

#define COLUMNS 64
#define STEP 32

// One column of padding: without it, the 32 threads of a warp would read one bank in 32 turns.
template <int ROWS>
struct Stage {
  float w[COLUMNS][STEP + 1];
  float x[ROWS][STEP];
};

// x: first row of the tile, `rows` of them are there; w: likewise, `columns`; both `in` long. What
// is not there is zero, so that all loops have a fixed length: 0 * 0 changes no sum.
template <int ROWS>
__device__ __forceinline__ void dot_tile(float (&sum)[ROWS], Stage<ROWS> &stage, const float *x,
                                         int rows, const float *w, int columns, int in) {
  int lane = lane_id(), warp = threadIdx.x / WARP;
#pragma unroll
  for (int m = 0; m < ROWS; ++m) sum[m] = 0.0f;
  for (int begin = 0; begin < in; begin += STEP) {
    bool there = begin + lane < in;
#pragma unroll 4  // loads that are under way together
    for (int i = 0; i < COLUMNS; i += COLUMNS / WARP) {
      int c = i + warp;
      stage.w[c][lane] = there && c < columns ? w[(i64)c * in + begin + lane] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < ROWS; i += COLUMNS / WARP) {
      int m = i + warp;
      if (m < ROWS) stage.x[m][lane] = there && m < rows ? x[(i64)m * in + begin + lane] : 0.0f;
    }
    __syncthreads();  // the stretch is complete
#pragma unroll 4
    for (int k = 0; k < STEP; ++k) {
      float own = stage.w[threadIdx.x][k];
#pragma unroll
      for (int m = 0; m < ROWS; ++m) sum[m] = fmaf(stage.x[m][k], own, sum[m]);
    }
    __syncthreads();  // and read by all, before the next one replaces it
  }
}
