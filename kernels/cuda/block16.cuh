// uses: prims.cuh ieee.cuh fp4.cuh
// One block of NVFP4 on its way to bytes: what each library does between amax and code.
//
// On paper all of them are  scale = e4m3(amax / (6 g)),  code = e2m1(x / (scale g)).  In float32
// the order of the operations shows: other scale bytes for a few blocks in a hundred. Each function
// here is one library's order; tinymoe/formats/nvfp4_encoders.py is the definition, and has their
// names. Every operation is written by `mul_rn` and its like, so no flag can change it.

#define STEPS_KERNEL 0  // the arithmetic of inference kernels with exact reciprocals
#define STEPS_KERNEL_VLLM 1
#define STEPS_KERNEL_FLASHINFER 2
#define STEPS_KERNEL_FLASHINFER_EXACT 3
#define STEPS_VLLM_REF 4
#define STEPS_MODELOPT 5
#define STEPS_CT 6
#define STEPS_TORCHAO 7
#define STEPS_TORCHAO_ONE_LEVEL 8
#define STEPS_TE 9

#define SIXTH __uint_as_float(0x3e2aaaabu)  // 1/6 rounded
#define FLT_MAX __uint_as_float(0x7f7fffffu)

// The scale byte of a block, and how a value becomes what E2M1 rounds.
struct Scaled {
  u32 byte;
  float by;
  int divides, flushes;  // x / by, or x * by; with subnormals flushed
};

// The largest of four neighbouring lanes, in each of them: a butterfly of two steps.
__device__ __forceinline__ float quad_max(float x) {
  x = larger(x, __shfl_xor_sync(ALL, x, 1));
  return larger(x, __shfl_xor_sync(ALL, x, 2));
}

__device__ __forceinline__ u32 code_of(float x, Scaled s, Rule rule) {
  float y = s.divides ? div_rn(x, s.by) : s.flushes ? mul_ftz(x, s.by) : mul_rn(x, s.by);
  return e2m1_from_f32(y, rule);
}

// ---------------------------------------------------------------------- kernels of engines
// S is a divisor, 2688 / amax of the calibration. A block that is too quiet gets scale 0.

__device__ __forceinline__ Scaled kernel_steps(float amax, float S) {
  u32 byte = e4m3_from_f32(mul_rn(S, mul_rn(amax, SIXTH)));
  float step = mul_rn(e4m3_to_f32(byte), div_rn(1, S));
  return {byte, byte ? div_rn(1, step) : 0, 0, 0};
}

__device__ __forceinline__ Scaled vllm_steps(float amax, float S) {
  u32 byte = e4m3_from_f32(mul_rn(S, mul_rn(amax, rcp_ftz(6))));
  float step = mul_rn(e4m3_to_f32(byte), rcp_ftz(S));
  return {byte, byte ? rcp_ftz(step) : 0, 0, 0};
}

// Asks amax, not the scale, for zero: a scale that underflows leaves 1/0, and codes 6 and -6.
__device__ __forceinline__ Scaled flashinfer_steps(float amax, float S) {
  u32 byte = e4m3_from_f32(mul_ftz(S, mul_ftz(amax, rcp_ftz(6))));
  float step = mul_ftz(e4m3_to_f32(byte), rcp_ftz(S));
  bool nothing = magnitude_bits(amax) < 0x00800000u;  // zero, or flushed to it
  return {byte, nothing ? 0 : rcp_ftz(step), 0, 1};
}

__device__ __forceinline__ Scaled plain_division(float amax, float S) {
  u32 byte = e4m3_from_f32(mul_rn(amax, mul_rn(S, SIXTH)));
  float step = mul_rn(e4m3_to_f32(byte), div_rn(1, S));
  return {byte, smaller(div_rn(1, step), FLT_MAX), 0, 0};
}

// 1 / 1e8 stands in for 1 / 0.
__device__ __forceinline__ float reciprocal_or(float v) {
  return div_rn(1, is_zero(v) ? 1e8f : v);
}

__device__ __forceinline__ Scaled vllm_ref_steps(float amax, float S) {
  u32 byte = e4m3_from_f32(mul_rn(S, mul_rn(amax, SIXTH)));
  return {byte, reciprocal_or(mul_rn(e4m3_to_f32(byte), reciprocal_or(S))), 0, 0};
}

// ------------------------------------------------------------------- libraries, for weights

__device__ __forceinline__ Scaled modelopt_steps(float amax, float g) {
  float s = div_rn(amax, mul_rn(6, g));
  if (is_zero(s)) s = 1;
  u32 byte = max(e4m3_from_f32(s), 1u);  // 2^-9, never 0
  return {byte, mul_rn(e4m3_to_f32(byte), g), 1, 0};
}

// In the dtype of the weights; where others get a scale of zero, 0.125.
__device__ __forceinline__ Scaled ct_steps(float amax, float G, int from_bf16) {
  float sixth = stored(div_rn(amax, 6), from_bf16);
  u32 byte = e4m3_from_f32(mul_rn(G, sixth));
  if (byte == 0) byte = 0x20;
  return {byte, div_rn(e4m3_to_f32(byte), G), 1, 0};
}

// 2^-6, the smallest normal E4M3, is the least scale: 0x08.
__device__ __forceinline__ Scaled torchao_steps(float amax, float g, int one_level) {
  float s = div_rn(amax, 6);
  if (!one_level) s = div_rn(s, g);
  u32 byte = max(e4m3_from_f32(s), 8u);
  return {byte, div_rn(one_level ? 1 : div_rn(1, g), e4m3_to_f32(byte)), 0, 0};
}

__device__ __forceinline__ Scaled te_steps(float amax, float amax_of_tensor) {
  return plain_division(amax, smaller(div_rn(2688, amax_of_tensor), FLT_MAX));
}

__device__ __forceinline__ Scaled scaled(int steps, float amax, float scale, int from_bf16) {
  switch (steps) {
    case STEPS_KERNEL: return kernel_steps(amax, scale);
    case STEPS_KERNEL_VLLM: return vllm_steps(amax, scale);
    case STEPS_KERNEL_FLASHINFER: return flashinfer_steps(amax, scale);
    case STEPS_KERNEL_FLASHINFER_EXACT: return plain_division(amax, scale);
    case STEPS_VLLM_REF: return vllm_ref_steps(amax, scale);
    case STEPS_MODELOPT: return modelopt_steps(amax, scale);
    case STEPS_CT: return ct_steps(amax, scale, from_bf16);
    case STEPS_TORCHAO: return torchao_steps(amax, scale, 0);
    case STEPS_TORCHAO_ONE_LEVEL: return torchao_steps(amax, scale, 1);
    case STEPS_TE: return te_steps(amax, scale);
    default: __builtin_unreachable();
  }
}
