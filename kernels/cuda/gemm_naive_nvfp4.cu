// uses: prims.cuh ieee.cuh fp4.cuh
// Step 1 of 3: a product with four-bit weights, a thread for each output.
//
//   out[t, n] = alpha * sum over k of x[t, k] * w[n, k]
//
// This is the definition in CUDA: decode, multiply, add, eight values after eight. It is slow for a
// reason worth seeing: every weight is read and decoded T times, every x N times, and neighbouring
// threads read codes of neighbouring rows, K/2 bytes apart: 32 places for one load of a warp. For
// 32 x 64 outputs of K = 128 it moves 43,264 sectors of 32 bytes, counts the PTX machine.
// gemm_shared_nvfp4.cu reads each once a tile; gemm_nvfp4_mma.cu multiplies by tensor cores.
//
// W4A16: x (T, K) float32 as stored. W4A4: x is codes and scales as the weights are.
// w: codes (N, K/2), scales (N, K/BLOCK) uint8. alpha: the tensor scales, as a multiplier.

struct Floats {
  const float* x;  // (rows, K)
  int K;
};

// Values k .. k+7 of a row: numbers as they are, or codes times their scale.
template <class Format>
__device__ __forceinline__ void eight_values(float (&v)[8], const Floats& m, int row, int k, int) {
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = m.x[(i64)row * m.K + k + i];
}

template <class Format>
__device__ __forceinline__ void eight_values(float (&v)[8], const Rows& m, int row, int k,
                                             int reading) {
  Word word = word_at<Format>(m, row, k);
  float scale = Format::scale(word.scale, reading);
#pragma unroll
  for (int p = 0; p < 4; p++) {
    float2 pair = Format::values(word.codes, p, scale);
    v[p] = pair.x, v[p + 4] = pair.y;
  }
}

template <class Format, class X>
__device__ __forceinline__ void naive(float* out, const X& x, const u8* w_codes,
                                      const u8* w_scales, float alpha, int T, int N, int K,
                                      int reading, int to_bf16) {
  int n = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
  if (n >= N) return;
  float sum = 0;
#pragma unroll 1
  for (int k = 0; k < K; k += 8) {
    float a[8], w[8];
    eight_values<Format>(a, x, t, k, READ_NAN);
    eight_values<Format>(w, Rows{w_codes, w_scales, N, K}, n, k, reading);
#pragma unroll
    for (int i = 0; i < 8; i++) sum = fmaf(a[i], w[i], sum);
  }
  out[(i64)t * N + n] = stored(alpha * sum, to_bf16);
}

#define W_AND_SIZES const u8 *w_codes, const u8 *w_scales, float alpha, int T, int N, int K
#define SAME w_codes, w_scales, alpha, T, N, K

extern "C" __global__ void gemm_nvfp4_naive(float* out, const float* x, W_AND_SIZES, int to_bf16) {
  naive<Nvfp4>(out, Floats{x, K}, SAME, READ_NAN, to_bf16);
}

extern "C" __global__ void gemm_nvfp4_w4a4_naive(float* out, const u8* x_codes, const u8* x_scales,
                                                 W_AND_SIZES, int to_bf16) {
  naive<Nvfp4>(out, Rows{x_codes, x_scales, T, K}, SAME, READ_NAN, to_bf16);
}

extern "C" __global__ void gemm_mxfp4_naive(float* out, const float* x, W_AND_SIZES, int reading,
                                            int to_bf16) {
  naive<Mxfp4>(out, Floats{x, K}, SAME, reading, to_bf16);
}

extern "C" __global__ void gemm_mxfp4_w4a4_naive(float* out, const u8* x_codes, const u8* x_scales,
                                                 W_AND_SIZES, int to_bf16) {
  naive<Mxfp4>(out, Rows{x_codes, x_scales, T, K}, SAME, READ_NAN, to_bf16);
}
