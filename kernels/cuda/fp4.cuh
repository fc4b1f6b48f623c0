// uses: prims.cuh ieee.cuh
// Four-bit floats and their scales, to numbers and back (tinymoe/formats is the definition).
//
//   E2M1, the value:         s ee m       0 .5 1 1.5 2 3 4 6 and their negatives
//   E4M3, NVFP4's scale:     s eeee mmm   one for 16 values; 448 at most, 0x7f is NaN
//   E8M0, MXFP4's scale:     eeeeeeee     one for 32 values; 2^(byte - 127)
//
// Two codes lie in a byte, the earlier one in its low half; a 32-bit word holds codes 0 .. 7 of a
// row, code i in bits 4i .. 4i+3. Rows are multiples of 16 codes: a word never straddles two blocks.

// ------------------------------------------------------------------------------- to numbers
//
// A small float is a large float with fewer bits, so its bits can be moved into place and one
// multiplication repairs the exponent's bias, subnormals included: 0.5 is subnormal in E2M1, and
// becomes a subnormal f16 that the multiplication makes normal. (In f32 under -ftz=true it would
// be flushed: 0.5 would read as 0. Hence f16, whose instructions have no such flag set.)

// Codes p and p + 4 of a word as two f16 in a register, code p low. Codes four apart are 16 bits
// apart, so both move at once: two masks and two shifts. Sign to bit 15, the rest to bits 9 .. 11.
__device__ __forceinline__ u32 e2m1_to_f16x2(u32 word, int p) {
  u32 rest = word & (0x00070007u << (4 * p)), sign = word & (0x00080008u << (4 * p));
  rest = 4 * p <= 9 ? rest << (9 - 4 * p) : rest >> (4 * p - 9);
  u32 value;
  asm("mul.f16x2 %0, %1, %2;" : "=r"(value) : "r"(rest | sign << (12 - 4 * p)), "r"(0x74007400u));
  return value;  // times 2^14: the biases, 1 and 15
}

// A block scale as f16 in both halves: times 2^8. Byte 0x7f would read as 480 and is NaN instead.
__device__ __forceinline__ u32 e4m3_to_f16x2(u32 byte) {
  u32 half = ((byte & 0x7f) << 7) | ((byte & 0x80) << 8);
  u32 value;
  asm("mul.f16x2 %0, %1, %2;" : "=r"(value) : "r"(half * 0x10001u), "r"(0x5c005c00u));
  return (byte & 0x7f) == 0x7f ? 0x7fff7fffu : value;
}

// The two halves of a register as f32, exactly.
__device__ __forceinline__ float2 f16x2_to_f32(u32 pair) {
  float low, high;
  asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }"
      : "=f"(low), "=f"(high) : "r"(pair));
  return make_float2(low, high);
}

__device__ __forceinline__ float2 e2m1_to_f32(u32 word, int p) {
  return f16x2_to_f32(e2m1_to_f16x2(word, p));
}

__device__ __forceinline__ float e4m3_to_f32(u32 byte) {
  return f16x2_to_f32(e4m3_to_f16x2(byte)).x;
}

// Readings of E8M0 differ at its ends (tinymoe/formats/e8m0.py).
#define READ_NAN 0    // byte 0 is 2^-127, 255 is NaN: the definition
#define READ_INF 1    // 255 is 2^128, infinite in f32
#define READ_SHIFT 2  // byte << 23 as f32: 0 is 0.0, 255 infinite
#define READ_LDEXP 3  // 255 is 2^128, and 0.5 times that a number: 2^127

// Half of the scale, 2^(byte - 128), so that 2^128 has a number; values are doubled instead.
__device__ __forceinline__ float half_e8m0(u32 byte, int reading) {
  if (byte == 255 && reading != READ_LDEXP) return reading == READ_NAN ? NAN32 : INF;
  if (byte == 0 && reading == READ_SHIFT) return 0;
  return __uint_as_float(byte > 1 ? (byte - 1) << 23 : 0x00200000u << byte);  // 2^-128 is subnormal
}

// ---------------------------------------------------------------------------------- formats

// The two formats, as kernels take them for a parameter. `values`: codes p and p + 4 of a word
// times their block's scale.
struct Nvfp4 {
  static const int BLOCK = 16;             // values to a scale
  static const bool TENSOR_SCALE = true;  // a tensor has one too
  static __device__ __forceinline__ float scale(u32 byte, int) { return e4m3_to_f32(byte); }
  static __device__ __forceinline__ float2 values(u32 word, int p, float scale) {
    float2 v = e2m1_to_f32(word, p);
    return make_float2(mul_rn(v.x, scale), mul_rn(v.y, scale));  // exact: 2 + 4 significant bits
  }
};

struct Mxfp4 {
  static const int BLOCK = 32;
  static const bool TENSOR_SCALE = false;
  static __device__ __forceinline__ float scale(u32 byte, int reading) {
    return half_e8m0(byte, reading);
  }
  static __device__ __forceinline__ float2 values(u32 word, int p, float scale) {
    float2 v = e2m1_to_f32(word, p);
    return make_float2(mul_rn(v.x + v.x, scale), mul_rn(v.y + v.y, scale));
  }
};

// A matrix of four-bit rows.
struct Rows {
  const u8 *codes, *scales;  // (rows, K/2), (rows, K/BLOCK)
  int end, K;                // the first row that is not there
};

// Eight codes and the scale of their block.
struct Word {
  u32 codes, scale;
};

template <class Format>
__device__ __forceinline__ Word word_at(const Rows& m, int row, int k) {
  return {*(const u32*)(m.codes + (i64)row * (m.K / 2) + k / 2),
          m.scales[(i64)row * (m.K / Format::BLOCK) + k / Format::BLOCK]};
}

// ------------------------------------------------------------------------------ from numbers

#define TIES_EVEN 0  // the nearest code; of two, the even one
#define TIES_TO_ZERO 1
#define TIES_AWAY 2
#define SIGN_KEPT 0            // -0 and -0.1 give code 8: PTX cvt.rn.satfinite
#define SIGN_LOST_AT_ZERO 1    // -0 gives 0, -0.1 gives 8
#define SIGN_NEVER_OF_ZERO 2   // nothing gives 8
#define SIGN_ZEROS_NEGATIVE 3  // +0 gives 8 too

// How a library rounds to E2M1 (formats/e2m1.py, `Rule`).
struct Rule {
  int ties, zero_sign, nan;  // nan: the code of a NaN
};

// The seven midpoints between codes, as f32 bits, which order as the numbers do.
__device__ __forceinline__ u32 e2m1_below(u32 size, int ties) {
  const u32 middle[7] = {0x3e800000, 0x3f400000, 0x3fa00000, 0x3fe00000,   // .25 .75 1.25 1.75
                         0x40200000, 0x40600000, 0x40a00000};              // 2.5 3.5 5
  u32 code = 0;
#pragma unroll
  for (int i = 0; i < 7; i++) {
    // On the middle of codes i and i + 1: up if ties go away from zero, or if i + 1 is the even one
    bool up = ties == TIES_AWAY || (ties == TIES_EVEN && i % 2 == 1);
    code += size > middle[i] || (size == middle[i] && up);
  }
  return code;
}

// The code 0 .. 15 of a number: nearest, 6 for all that is larger.
__device__ __forceinline__ u32 e2m1_from_f32(float x, Rule rule) {
  if (is_nan(x)) return rule.nan;
  u32 size = magnitude_bits(x), code = e2m1_below(size, rule.ties), negative = sign_bit(x);
  if (rule.zero_sign == SIGN_LOST_AT_ZERO) negative = negative && size != 0;
  if (rule.zero_sign == SIGN_NEVER_OF_ZERO) negative = negative && code != 0;
  if (rule.zero_sign == SIGN_ZEROS_NEGATIVE) negative = negative || size == 0;
  return code | negative << 3;
}

// A scale >= 0 to E4M3: nearest, ties to even, 448 for all that is larger.
__device__ __forceinline__ u32 e4m3_from_f32(float x) {
  if (is_nan(x)) return 0x7f;
  u32 bits = min(magnitude_bits(x), 0x43e00000u);  // 448
  if (bits < 0x3c800000u) {                        // below 2^-6: whole multiples of 2^-9
    return __float2int_rn(mul_rn(__uint_as_float(bits), 512.0f));
  }
  // Drop 20 of 23 fraction bits, adding half of what is dropped first; then 127 to 7 as bias.
  return ((bits + 0x7ffffu + ((bits >> 20) & 1)) >> 20) - (120 << 3);
}
