// uses: prims.cuh ieee.cuh fp4.cuh tensor_core.cuh warp_tile.cuh blackwell.cuh
// arch: 120a
// W4A4 on FP4 tensor cores: gemm_nvfp4_mma.cu with another way to multiply, and the same arguments.

#define W_AND_SIZES const u8 *w_codes, const u8 *w_scales, float alpha, int T, int N, int K
#define ROW0 blockIdx.y * TILE_ROWS
#define WEIGHT Rows{w_codes, w_scales, N, K}, blockIdx.x * TILE_COLUMNS, alpha

extern "C" __global__ void BOUNDS gemm_nvfp4_w4a4_sm120(float* out, const u8* x_codes,
                                                        const u8* x_scales, W_AND_SIZES,
                                                        int to_bf16) {
  tile<Blackwell<Nvfp4>>(out, Rows{x_codes, x_scales, T, K}, ROW0, WEIGHT, READ_NAN, to_bf16);
}

extern "C" __global__ void BOUNDS gemm_mxfp4_w4a4_sm120(float* out, const u8* x_codes,
                                                        const u8* x_scales, W_AND_SIZES,
                                                        int to_bf16) {
  tile<Blackwell<Mxfp4>>(out, Rows{x_codes, x_scales, T, K}, ROW0, WEIGHT, READ_NAN, to_bf16);
}
