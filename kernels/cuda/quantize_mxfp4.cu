// uses: prims.cuh ieee.cuh fp4.cuh
// Quantise to MXFP4: 32 values of a row become 16 bytes of codes and one exponent byte.
//
// The scale is a power of two, so all the arithmetic is in choosing it: OCP's minimum rule takes
// floor(log2(amax)) - 2 and clips what lies above 6 * 2^k; others round up. Powers of two are
// read from the bits of a float, but for two libraries that ask log2 (tinymoe/formats/mxfp4.py).
//
// x (rows, K) float32 -> codes (rows, K/2), scales (rows, K/32) uint8, `blocks` = rows * K/32.
// Eight threads share a block, as four do in quantize_nvfp4.cu.

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

// The hardware's logarithm. Exact at powers of two; next to one it is off, as any library's is.
__device__ __forceinline__ float log2_of(float x) {
  float r;
  asm("lg2.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

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
    default: return (sixth + 0x7fffff) >> 23;
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

// least_amax, least_byte: DeepGEMM's 1e-4 and 1. overflow: from this amax on compressed-tensors
// writes byte 127, what its cast makes of an infinity.
extern "C" __global__ void quantize_mxfp4(u8* codes, u8* scales, const float* x, i64 blocks,
                                          int exponent, int scaling, float least_amax,
                                          int least_byte, float overflow, int ties, int zero_sign,
                                          int nan) {
  i64 thread = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  i64 block = thread / 8;
  int lane = thread % 8;
  bool mine = block < blocks;  // the others stay for the shuffles
  if (!mine) block = 0;
  float4 v = ((const float4*)(x + block * 32))[lane];

  float amax = larger(larger(fabsf(v.x), fabsf(v.y)), larger(fabsf(v.z), fabsf(v.w)));
#pragma unroll
  for (int o = 1; o < 8; o <<= 1) amax = larger(amax, __shfl_xor_sync(ALL, amax, o));
  amax = larger(amax, least_amax);
  int byte = min(max(exponent_byte(amax, exponent), least_byte), 254);
  if (amax >= overflow) byte = 127;

  Rule rule = {ties, zero_sign, nan};
  u32 low = e2m1_from_f32(by_power(v.x, byte, scaling), rule) |
            e2m1_from_f32(by_power(v.y, byte, scaling), rule) << 4;
  u32 high = e2m1_from_f32(by_power(v.z, byte, scaling), rule) |
             e2m1_from_f32(by_power(v.w, byte, scaling), rule) << 4;
  if (!mine) return;
  *(u16*)(codes + block * 16 + lane * 2) = low | high << 8;
  if (lane == 0) scales[block] = byte;
}
