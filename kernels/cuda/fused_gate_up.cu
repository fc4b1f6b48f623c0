// uses: prims.cuh tensor_core.cuh portable.cuh gate_up_tile.cuh
// gate_up_tile.cuh on the tensor cores of sm_80 and later. 128 threads, grid (I / 64 rounded up,
// tiles at worst).

extern "C" __global__ void BOUNDS
fused_gate_up_mma(u8* codes, u8* scales, const u8* x_codes, const u8* x_scales, const u8* w_codes,
                  const u8* w_scales, const float* alphas, const float* hidden_scales,
                  const int* tiles, int H, int I, int to_bf16) {
  gate_up_tile<Portable<Nvfp4, InF16>>(codes, scales, Rows{x_codes, x_scales, 0, H}, w_codes,
                                       w_scales, alphas, hidden_scales, tiles, I, to_bf16);
}
