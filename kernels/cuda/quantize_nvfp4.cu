// uses: prims.cuh ieee.cuh fp4.cuh block16.cuh
// Quantise to NVFP4: 16 values of a row become 8 bytes of codes and one byte of scale.
//
// Four threads share a block of 16. Each loads four values at once (16 bytes, so that a warp reads
// 512 bytes in a row), two shuffles find the largest magnitude of the block, and then each thread
// rounds its own four. No shared memory, no barrier: what threads must know of each other fits
// into registers.
//
// x (rows, K) float32 -> codes (rows, K/2), scales (rows, K/16) uint8. `steps` and `rule` say whose
// bytes: see block16.cuh. `sharing` is 1, or 16 for TransformerEngine's tiles of 16 rows that
// share one scale. At most 2^31 blocks.

extern "C" __global__ void quantize_nvfp4(u8* codes, u8* scales, const float* x, int rows,
                                          int blocks, float tensor_scale, int steps,
                                          int from_bf16, int sharing, int ties, int zero_sign,
                                          int nan) {
  int block = blockIdx.x * (blockDim.x / 4) + threadIdx.x / 4;  // of all rows'
  int lane = threadIdx.x % 4;
  // Threads past the end stay for the shuffles, which want whole warps, and look at block 0.
  bool mine = block < rows * blocks;
  if (!mine) block = 0;
  const float4* quarter = (const float4*)x + (i64)block * 4 + lane;

  float amax = 0;
  int before = block / blocks % sharing;  // rows of the tile above this one
  for (int r = 0; r < sharing; r++) {
    float4 v = quarter[(i64)(r - before) * blocks * 4];
    amax = larger(amax, larger(larger(fabsf(v.x), fabsf(v.y)), larger(fabsf(v.z), fabsf(v.w))));
  }
  amax = quad_max(amax);

  Scaled s = scaled(steps, amax, tensor_scale, from_bf16);
  Rule rule = {ties, zero_sign, nan};
  float4 v = *quarter;
  u32 low = code_of(v.x, s, rule) | code_of(v.y, s, rule) << 4;
  u32 high = code_of(v.z, s, rule) | code_of(v.w, s, rule) << 4;
  if (!mine) return;
  *(u16*)(codes + (i64)block * 8 + lane * 2) = low | high << 8;
  if (lane == 0) scales[block] = s.byte;
}
