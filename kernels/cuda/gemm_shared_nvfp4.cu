// uses: prims.cuh ieee.cuh fp4.cuh
// Step 2 of 3: the same product, a tile of 32 x 32 outputs a block, through shared memory.
//
// The block copies 32 values of 32 rows of x and of w into shared memory, weights decoded on the
// way: each is read and decoded once for 32 outputs that need it. Between the copy and its use, and
// between its use and the next copy, all threads must wait for each other: two barriers a step.
// Each thread then owns 2 x 2 outputs, so that four numbers read serve four multiplications. It
// moves 896 sectors where gemm_naive_nvfp4.cu moves 43,264.
//
// Arguments as in gemm_naive_nvfp4.cu; 256 threads, grid (N / 32, T / 32) rounded up. Float32 all
// the way, so this is also the product for float32 activations without tensor cores.

#define SIDE 32
#define STEP 32
#define THREADS 256

// One column of padding: rows that follow each other start in different banks of memory, so 16
// threads that read a column each at once are not served one by one. Without it a warp's accesses
// take 8.9 times as many passes.
typedef float Stage[SIDE][STEP + 1];

struct Floats {
  const float* x;  // (rows, K)
  int end, K;
};

// Rows row0 .. row0 + 31 at k0 .. k0 + 31 into `stage`, zeros where there is no value.
template <class Format>
__device__ __forceinline__ void copy(Stage& stage, const Floats& m, int row0, int k0, int) {
#pragma unroll
  for (int i = 0; i < SIDE * STEP / THREADS; i++) {
    int at = threadIdx.x + i * THREADS, row = row0 + at / STEP, k = k0 + at % STEP;
    stage[at / STEP][at % STEP] = row < m.end && k < m.K ? m.x[(i64)row * m.K + k] : 0;
  }
}

template <class Format>
__device__ __forceinline__ void copy(Stage& stage, const Rows& m, int row0, int k0, int reading) {
  int r = threadIdx.x / (STEP / 8), k = threadIdx.x % (STEP / 8) * 8;
  if (r >= SIDE) return;  // half of the threads have no word to decode
  Word word = {};
  if (row0 + r < m.end && k0 + k < m.K) word = word_at<Format>(m, row0 + r, k0 + k);
  float scale = Format::scale(word.scale, reading);
#pragma unroll
  for (int p = 0; p < 4; p++) {
    float2 v = Format::values(word.codes, p, scale);  // code 0 is zero whatever the scale
    stage[r][k + p] = v.x;
    stage[r][k + p + 4] = v.y;
  }
}

template <class Format, class X>
__device__ __forceinline__ void tiled(float* out, const X& x, const u8* w_codes,
                                      const u8* w_scales, float alpha, int T, int N, int K,
                                      int reading, int to_bf16) {
  __shared__ Stage xs, ws;
  int row0 = blockIdx.y * SIDE, column0 = blockIdx.x * SIDE;
  int down = threadIdx.x / 16, across = threadIdx.x % 16;
  float sum[2][2] = {};
  for (int k0 = 0; k0 < K; k0 += STEP) {
    copy<Format>(xs, x, row0, k0, READ_NAN);
    copy<Format>(ws, Rows{w_codes, w_scales, N, K}, column0, k0, reading);
    __syncthreads();  // the copy is complete
#pragma unroll 4
    for (int k = 0; k < STEP; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float a = xs[down + 16 * (i / 2)][k], w = ws[across + 16 * (i % 2)][k];
        sum[i / 2][i % 2] = fmaf(a, w, sum[i / 2][i % 2]);
      }
    }
    __syncthreads();  // and used by all
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int t = row0 + down + 16 * (i / 2), n = column0 + across + 16 * (i % 2);
    if (t < T && n < N) out[(i64)t * N + n] = stored(alpha * sum[i / 2][i % 2], to_bf16);
  }
}

#define W_AND_SIZES const u8 *w_codes, const u8 *w_scales, float alpha, int T, int N, int K
#define SAME w_codes, w_scales, alpha, T, N, K

extern "C" __global__ void gemm_nvfp4_shared(float* out, const float* x, W_AND_SIZES, int to_bf16) {
  tiled<Nvfp4>(out, Floats{x, T, K}, SAME, READ_NAN, to_bf16);
}

extern "C" __global__ void gemm_nvfp4_w4a4_shared(float* out, const u8* x_codes, const u8* x_scales,
                                                  W_AND_SIZES, int to_bf16) {
  tiled<Nvfp4>(out, Rows{x_codes, x_scales, T, K}, SAME, READ_NAN, to_bf16);
}

extern "C" __global__ void gemm_mxfp4_shared(float* out, const float* x,
                                             W_AND_SIZES, int reading, int to_bf16) {
  tiled<Mxfp4>(out, Floats{x, T, K}, SAME, reading, to_bf16);
}

extern "C" __global__ void gemm_mxfp4_w4a4_shared(float* out, const u8* x_codes, const u8* x_scales,
                                                  W_AND_SIZES, int to_bf16) {
  tiled<Mxfp4>(out, Rows{x_codes, x_scales, T, K}, SAME, READ_NAN, to_bf16);
}
