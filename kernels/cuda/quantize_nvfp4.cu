// uses: prims.cuh ieee.cuh fp4.cuh block16.cuh
// Quantise to NVFP4: 16 values of a row become 8 bytes of codes and one byte of scale.
//
// Four threads share a block of 16. Each loads four values at once (16 bytes, so that a warp reads
// 512 bytes in a row), two shuffles find the largest magnitude of the block, and then each thread
// rounds its own four. No shared memory, no barrier: what threads must know of each other fits
// into registers.
//
// x (rows, K) float32, `blocks` = K/16 -> codes (rows, K/2), scales (rows, K/16) uint8; at most 2^31
// blocks in all. One kernel for each convention of tinymoe/formats/conventions.py, so that none
// decides at run time what it computes.

// SHARING: rows that share a scale. ZERO_SIGN, NAN: how the library writes -0 and a NaN.
template <int STEPS, int SHARING, int ZERO_SIGN, int NAN>
__device__ __forceinline__ void quantize(u8* codes, u8* scales, const float* x, int rows,
                                         int blocks, float tensor_scale, int from_bf16) {
  int block = blockIdx.x * (blockDim.x / 4) + threadIdx.x / 4;  // of all rows'
  int lane = threadIdx.x % 4;
  // Threads past the end stay for the shuffles, which want whole warps, and look at block 0.
  bool mine = block < rows * blocks;
  if (!mine) block = 0;
  const float4* quarter = (const float4*)x + (i64)block * 4 + lane;

  float amax = 0;
  int above = SHARING > 1 ? block / blocks % SHARING : 0;  // rows of the tile before this one
#pragma unroll 1
  for (int r = 0; r < SHARING; r++) {
    amax = larger(amax, largest_of(quarter[(i64)(r - above) * blocks * 4]));
  }
  amax = quad_max(amax);

  Scaled s = scaled(STEPS, amax, tensor_scale, from_bf16);
  Rule rule = {TIES_EVEN, ZERO_SIGN, NAN};
  float4 v = *quarter;
  u32 low = code_of(v.x, s, rule) | code_of(v.y, s, rule) << 4;
  u32 high = code_of(v.z, s, rule) | code_of(v.w, s, rule) << 4;
  if (!mine) return;
  *(u16*)(codes + (i64)block * 8 + lane * 2) = low | high << 8;
  if (lane == 0) scales[block] = s.byte;
}

#define CONVENTION(NAME, ...)                                                                   \
  extern "C" __global__ void quantize_nvfp4_##NAME(u8* codes, u8* scales, const float* x,       \
                                                   int rows, int blocks, float tensor_scale,    \
                                                   int from_bf16) {                             \
    quantize<__VA_ARGS__>(codes, scales, x, rows, blocks, tensor_scale, from_bf16);             \
  }

CONVENTION(modelopt, STEPS_MODELOPT, 1, SIGN_LOST_AT_ZERO, 7)
CONVENTION(ct, STEPS_CT, 1, SIGN_LOST_AT_ZERO, 0)
// 11 is what torchao's bit arithmetic makes of 0 * infinity on a PC, whose NaN is negative
CONVENTION(torchao, STEPS_TORCHAO, 1, SIGN_KEPT, 11)
CONVENTION(torchao_one_level, STEPS_TORCHAO_ONE_LEVEL, 1, SIGN_KEPT, 11)
CONVENTION(te, STEPS_TE, 1, SIGN_LOST_AT_ZERO, 0)
CONVENTION(te_2d, STEPS_TE, 16, SIGN_LOST_AT_ZERO, 0)
CONVENTION(kernel, STEPS_KERNEL, 1, SIGN_KEPT, 7)
CONVENTION(kernel_flashinfer, STEPS_KERNEL_FLASHINFER, 1, SIGN_KEPT, 7)
CONVENTION(kernel_flashinfer_exact, STEPS_KERNEL_FLASHINFER_EXACT, 1, SIGN_KEPT, 7)
CONVENTION(kernel_vllm, STEPS_KERNEL_VLLM, 1, SIGN_KEPT, 7)
CONVENTION(vllm_ref, STEPS_VLLM_REF, 1, SIGN_LOST_AT_ZERO, 7)
