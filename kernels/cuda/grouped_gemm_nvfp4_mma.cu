// uses: prims.cuh ieee.cuh fp4.cuh tensor_core.cuh warp_tile.cuh portable.cuh grouped_tile.cuh
// The products of all experts in one launch: gemm_nvfp4_mma.cu, where each tile of rows has a
// weight of its own.
//
// x (S, K) in expert order, as codes and scales or as float32; weights (E, N, K); alphas (E,), the
// tensor scales as multipliers, not read for MXFP4, which has none; out (S, N). 128 threads, grid
// (N / 128 rounded up, tiles at worst).

#define EXPERTS_AND_SIZES                                                                       \
  const u8 *w_codes, const u8 *w_scales, const float *alphas, const int *tiles, int N, int K
#define SAME w_codes, w_scales, alphas, tiles, N, K

template <class Format, class Math, class X>
__device__ __forceinline__ void grouped(float* out, X x, EXPERTS_AND_SIZES, int reading,
                                        int to_bf16) {
  Group group = group_of(tiles, blockIdx.y);
  if (group.expert < 0) return;
  x.end = group.end;
  tile<Math>(out, x, group.row, weight_of<Format>(w_codes, w_scales, group.expert, N, K),
             blockIdx.x * TILE_COLUMNS, Format::TENSOR_SCALE ? alphas[group.expert] : 1, reading,
             to_bf16);
}

extern "C" __global__ void BOUNDS grouped_gemm_nvfp4_w4a4_mma(float* out, const u8* x_codes,
                                                              const u8* x_scales,
                                                              EXPERTS_AND_SIZES, int to_bf16) {
  Rows x = {x_codes, x_scales, 0, K};
  grouped<Nvfp4, Portable<Nvfp4, InF16>>(out, x, SAME, READ_NAN, to_bf16);
}

extern "C" __global__ void BOUNDS grouped_gemm_mxfp4_w4a4_mma(float* out, const u8* x_codes,
                                                              const u8* x_scales,
                                                              EXPERTS_AND_SIZES, int to_bf16) {
  Rows x = {x_codes, x_scales, 0, K};
  grouped<Mxfp4, Portable<Mxfp4, InBf16>>(out, x, SAME, READ_NAN, to_bf16);
}

// x in BF16 storage, and the result.
extern "C" __global__ void BOUNDS grouped_gemm_nvfp4_mma(float* out, const float* x,
                                                         EXPERTS_AND_SIZES) {
  grouped<Nvfp4, Portable<Nvfp4, InBf16>>(out, Floats<1>{x, 0, K}, SAME, READ_NAN, 1);
}

extern "C" __global__ void BOUNDS grouped_gemm_mxfp4_mma(float* out, const float* x,
                                                         EXPERTS_AND_SIZES, int reading) {
  grouped<Mxfp4, Portable<Mxfp4, InBf16>>(out, Floats<1>{x, 0, K}, SAME, reading, 1);
}

// x in float32 storage, and the result.
extern "C" __global__ void BOUNDS grouped_gemm_nvfp4_mma_f32(float* out, const float* x,
                                                             EXPERTS_AND_SIZES) {
  grouped<Nvfp4, Portable<Nvfp4, InBf16, 3>>(out, Floats<3>{x, 0, K}, SAME, READ_NAN, 0);
}

extern "C" __global__ void BOUNDS grouped_gemm_mxfp4_mma_f32(float* out, const float* x,
                                                             EXPERTS_AND_SIZES, int reading) {
  grouped<Mxfp4, Portable<Mxfp4, InBf16, 3>>(out, Floats<3>{x, 0, K}, SAME, reading, 0);
}
