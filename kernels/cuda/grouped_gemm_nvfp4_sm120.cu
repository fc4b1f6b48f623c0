// uses: prims.cuh ieee.cuh fp4.cuh tensor_core.cuh warp_tile.cuh blackwell.cuh grouped_tile.cuh
// arch: 120a
// grouped_gemm_nvfp4_mma.cu on FP4 tensor cores, W4A4: another way to multiply, the same arguments.

#define EXPERTS_AND_SIZES                                                                       \
  const u8 *w_codes, const u8 *w_scales, const float *alphas, const int *tiles, int N, int K
#define SAME w_codes, w_scales, alphas, tiles, N, K

template <class Format>
__device__ __forceinline__ void grouped(float* out, Rows x, EXPERTS_AND_SIZES, int to_bf16) {
  Group group = group_of(tiles, blockIdx.y);
  if (group.expert < 0) return;
  x.end = group.end;
  tile<Blackwell<Format>>(out, x, group.row,
                          weight_of<Format>(w_codes, w_scales, group.expert, N, K),
                          blockIdx.x * TILE_COLUMNS,
                          Format::TENSOR_SCALE ? alphas[group.expert] : 1, READ_NAN, to_bf16);
}

extern "C" __global__ void BOUNDS grouped_gemm_nvfp4_w4a4_sm120(float* out, const u8* x_codes,
                                                                const u8* x_scales,
                                                                EXPERTS_AND_SIZES, int to_bf16) {
  grouped<Nvfp4>(out, Rows{x_codes, x_scales, 0, K}, SAME, to_bf16);
}

extern "C" __global__ void BOUNDS grouped_gemm_mxfp4_w4a4_sm120(float* out, const u8* x_codes,
                                                                const u8* x_scales,
                                                                EXPERTS_AND_SIZES, int to_bf16) {
  grouped<Mxfp4>(out, Rows{x_codes, x_scales, 0, K}, SAME, to_bf16);
}
