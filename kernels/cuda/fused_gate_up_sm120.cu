// uses: prims.cuh tensor_core.cuh blackwell.cuh gate_up_tile.cuh
// arch: 120a
// gate_up_tile.cuh on FP4 tensor cores: another way to multiply, arguments as in fused_gate_up.cu.

extern "C" __global__ void BOUNDS
fused_gate_up_sm120(u8* codes, u8* scales, const u8* x_codes, const u8* x_scales,
                    const u8* w_codes, const u8* w_scales, const float* alphas,
                    const float* hidden_scales, const int* tiles, int H, int I, int to_bf16) {
  gate_up_tile<Blackwell<Nvfp4>>(codes, scales, Rows{x_codes, x_scales, 0, H}, w_codes, w_scales,
                                 alphas, hidden_scales, tiles, I, to_bf16);
}
