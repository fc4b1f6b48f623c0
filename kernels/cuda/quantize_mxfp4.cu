// uses: prims.cuh ieee.cuh fp4.cuh
// Quantise to MXFP4: 32 values of a row become 16 bytes of codes and one exponent byte.
//
// The scale is a power of two, so all the arithmetic is in choosing it: OCP's minimum rule takes
// floor(log2(amax)) - 2 and clips what lies above 6 * 2^k; others round up. Powers of two are
// read from the bits of a float, but for two libraries that ask log2 (tinymoe/formats/mxfp4.py).
//
// x (rows, K) float32 -> codes (rows, K/2), scales (rows, K/32) uint8, `blocks` = rows * K/32. Eight
// threads share a block, as four do in quantize_nvfp4.cu. One kernel for each convention of
// tinymoe/formats/conventions.py.

#define EXPONENT_FLOOR 0
#define EXPONENT_EVEN 1
#define EXPONENT_CEIL 2
#define EXPONENT_RCEIL 3
#define EXPONENT_RCEIL_RCP 4
#define EXPONENT_RCEIL_LOG2 5
#define EXPONENT_FLOOR6 6

#define SCALING_DIVIDE 0
#define SCALING_DIVIDE_NORMAL 1
#define SCALING_MULTIPLY 2
#define SCALING_MULTIPLY_ONE_AT_0 3
#define SCALING_MULTIPLY_ZERO_AT_0 4

#define POWER(e) __uint_as_float((e) > -127 ? ((e) + 127) << 23 : 0x00400000)  // e >= -127

// Adding just less than one to an exponent field rounds up, unless the fraction is zero.
__device__ __forceinline__ int exponent_byte(float amax, int rule) {
  int bits = __float_as_int(amax);
  int sixth = __float_as_int(rule == EXPONENT_RCEIL_RCP ? mul_rn(amax, 1.0f / 6) : div_rn(amax, 6));
  switch (rule) {
    case EXPONENT_FLOOR: return (bits >> 23) - 2;
    case EXPONENT_EVEN: return ((bits + (1 << 21)) >> 23) - 2;  // up from a fraction of 1.75
    case EXPONENT_CEIL: return ((bits + 0x7fffff) >> 23) - 2;
    case EXPONENT_RCEIL_LOG2: return (int)fmaxf(ceilf(log2_of(__int_as_float(sixth))), -127) + 127;
    case EXPONENT_FLOOR6: return sixth >> 23;
    case EXPONENT_RCEIL:
    case EXPONENT_RCEIL_RCP: return (sixth + 0x7fffff) >> 23;
    default: __builtin_unreachable();
  }
}

// What E2M1 rounds. Exact, unless the quotient leaves f32's range: there the libraries part.
__device__ __forceinline__ float by_power(float x, int byte, int scaling) {
  if (scaling == SCALING_DIVIDE_NORMAL) return div_rn(x, POWER(max(byte, 1) - 127));
  if (scaling == SCALING_DIVIDE) return div_rn(x, POWER(byte - 127));
  if (byte == 0 && scaling == SCALING_MULTIPLY_ONE_AT_0) return x;
  if (byte == 0 && scaling == SCALING_MULTIPLY_ZERO_AT_0) return mul_rn(x, 0);
  return mul_rn(x, POWER(127 - byte));
}

#define PLAIN 0
#define LEAST_1E_4 1  // amax counts as 1e-4 at least, and the byte as 1: DeepGEMM
#define OVERFLOWS 2   // from 1.75 * 2^127 on rounding gives infinity, and its cast byte 127

template <int EXPONENT, int SCALING, int TIES, int ZERO_SIGN, int NAN, int QUIRK>
__device__ __forceinline__ void quantize(u8* codes, u8* scales, const float* x, i64 blocks) {
  i64 block = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / 8;
  int lane = threadIdx.x % 8;
  bool mine = block < blocks;  // the others stay for the shuffles
  if (!mine) block = 0;
  float4 v = ((const float4*)(x + block * 32))[lane];

  float amax = largest_of(v);
#pragma unroll
  for (int o = 1; o < 8; o <<= 1) amax = larger(amax, __shfl_xor_sync(ALL, amax, o));
  if (QUIRK == LEAST_1E_4) amax = larger(amax, 1e-4f);
  int byte = min(max(exponent_byte(amax, EXPONENT), QUIRK == LEAST_1E_4), 254);
  if (QUIRK == OVERFLOWS && magnitude_bits(amax) >= 0x7f600000) byte = 127;

  Rule rule = {TIES, ZERO_SIGN, NAN};
  u32 low = e2m1_from_f32(by_power(v.x, byte, SCALING), rule) |
            e2m1_from_f32(by_power(v.y, byte, SCALING), rule) << 4;
  u32 high = e2m1_from_f32(by_power(v.z, byte, SCALING), rule) |
             e2m1_from_f32(by_power(v.w, byte, SCALING), rule) << 4;
  if (!mine) return;
  *(u16*)(codes + block * 16 + lane * 2) = low | high << 8;
  if (lane == 0) scales[block] = byte;
}

#define CONVENTION(NAME, EXPONENT, SCALING, ...)                                                \
  extern "C" __global__ void quantize_mxfp4_##NAME(u8* codes, u8* scales, const float* x,       \
                                                   i64 blocks) {                                \
    quantize<EXPONENT_##EXPONENT, SCALING_##SCALING, __VA_ARGS__>(codes, scales, x, blocks);    \
  }

CONVENTION(ocp_floor, FLOOR, DIVIDE, TIES_EVEN, SIGN_KEPT, 7, PLAIN)
CONVENTION(torchao_floor, FLOOR, DIVIDE_NORMAL, TIES_EVEN, SIGN_KEPT, 11, PLAIN)
CONVENTION(torchao_even, EVEN, DIVIDE_NORMAL, TIES_EVEN, SIGN_KEPT, 11, PLAIN)
CONVENTION(torchao_ceil, CEIL, DIVIDE_NORMAL, TIES_EVEN, SIGN_KEPT, 11, PLAIN)
CONVENTION(torchao_rceil, RCEIL_LOG2, MULTIPLY_ONE_AT_0, TIES_EVEN, SIGN_KEPT, 11, PLAIN)
CONVENTION(ct, EVEN, DIVIDE, TIES_EVEN, SIGN_LOST_AT_ZERO, 0, OVERFLOWS)
CONVENTION(vllm, EVEN, MULTIPLY_ZERO_AT_0, TIES_EVEN, SIGN_KEPT, 7, PLAIN)
CONVENTION(modelopt, RCEIL_LOG2, DIVIDE, TIES_TO_ZERO, SIGN_ZEROS_NEGATIVE, 0, PLAIN)
CONVENTION(flashinfer, RCEIL_RCP, MULTIPLY_ONE_AT_0, TIES_EVEN, SIGN_KEPT, 7, PLAIN)
CONVENTION(gpt_oss, RCEIL, MULTIPLY_ZERO_AT_0, TIES_AWAY, SIGN_KEPT, 0, PLAIN)
CONVENTION(triton_round_up, RCEIL, MULTIPLY_ZERO_AT_0, TIES_AWAY, SIGN_KEPT, 0, PLAIN)
CONVENTION(triton_round_down, FLOOR6, MULTIPLY_ZERO_AT_0, TIES_AWAY, SIGN_KEPT, 0, PLAIN)
CONVENTION(deepgemm, RCEIL, MULTIPLY, TIES_TO_ZERO, SIGN_NEVER_OF_ZERO, 0, LEAST_1E_4)
