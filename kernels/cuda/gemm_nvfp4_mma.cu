// uses: prims.cuh ieee.cuh fp4.cuh tensor_core.cuh warp_tile.cuh portable.cuh
// Step 3 of 3: the product on the tensor cores of sm_80 and later.
//
//   W4A4    out[t, n] = alpha * sum over blocks of x_scale * w_scale * sum of code products
//   W4A16   out[t, n] = alpha * sum of x * w_scale * code
//
// x: codes (T, K/2) and scales (T, K/BLOCK), or float32 (T, K); w: codes (N, K/2), scales
// (N, K/BLOCK). Products are exact; sums over k are float32, in the tensor core's order. 128
// threads, grid (N / 128, T / 16) rounded up. grouped_gemm_nvfp4_mma.cu does this for experts.
//
// What it leaves out, to stay readable: copies that run ahead of their use (cp.async), and tiles of
// more rows, by which a long prompt would decode each weight fewer times. Nobody has timed it.

#define W_AND_SIZES const u8 *w_codes, const u8 *w_scales, float alpha, int T, int N, int K
#define ROW0 blockIdx.y * TILE_ROWS
#define WEIGHT Rows{w_codes, w_scales, N, K}, blockIdx.x * TILE_COLUMNS, alpha

extern "C" __global__ void BOUNDS gemm_nvfp4_w4a4_mma(float* out, const u8* x_codes,
                                                      const u8* x_scales, W_AND_SIZES,
                                                      int to_bf16) {
  tile<Portable<Nvfp4, InF16>>(out, Rows{x_codes, x_scales, T, K}, ROW0, WEIGHT, READ_NAN, to_bf16);
}

extern "C" __global__ void BOUNDS gemm_mxfp4_w4a4_mma(float* out, const u8* x_codes,
                                                      const u8* x_scales, W_AND_SIZES,
                                                      int to_bf16) {
  tile<Portable<Mxfp4, InBf16>>(out, Rows{x_codes, x_scales, T, K}, ROW0, WEIGHT, READ_NAN,
                                to_bf16);
}

// x in BF16 storage, and the result. Of x the lower 16 bits are zeros, and are not looked at.
extern "C" __global__ void BOUNDS gemm_nvfp4_mma(float* out, const float* x, W_AND_SIZES) {
  tile<Portable<Nvfp4, InBf16>>(out, Floats<1>{x, T, K}, ROW0, WEIGHT, READ_NAN, 1);
}

extern "C" __global__ void BOUNDS gemm_mxfp4_mma(float* out, const float* x, W_AND_SIZES,
                                                 int reading) {
  tile<Portable<Mxfp4, InBf16>>(out, Floats<1>{x, T, K}, ROW0, WEIGHT, reading, 1);
}

// x in float32 storage, and the result: three pieces.
extern "C" __global__ void BOUNDS gemm_nvfp4_mma_f32(float* out, const float* x, W_AND_SIZES) {
  tile<Portable<Nvfp4, InBf16, 3>>(out, Floats<3>{x, T, K}, ROW0, WEIGHT, READ_NAN, 0);
}

extern "C" __global__ void BOUNDS gemm_mxfp4_mma_f32(float* out, const float* x, W_AND_SIZES,
                                                     int reading) {
  tile<Portable<Mxfp4, InBf16, 3>>(out, Floats<3>{x, T, K}, ROW0, WEIGHT, reading, 0);
}
