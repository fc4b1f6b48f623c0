// uses: prims.cuh
// Float arithmetic that means the same whatever the compiler's flags are.
//
// These kernels are compiled with -ftz=true, as CuPy does, and a compiler may fuse a * b + c. A
// quantiser must do neither behind our back: one flushed subnormal, or one rounding less, and a
// scale byte is another. So each operation is written as the instruction that it is: `.rn` rounds
// once to nearest, ties to even, and is never fused; without `.ftz` subnormals are kept.

__device__ __forceinline__ float mul_rn(float a, float b) {
  float r;
  asm("mul.rn.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

__device__ __forceinline__ float div_rn(float a, float b) {
  float r;
  asm("div.rn.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

__device__ __forceinline__ float sub_rn(float a, float b) {
  float r;
  asm("sub.rn.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

// With subnormals flushed, operands and result: for conventions whose libraries are built so.
__device__ __forceinline__ float mul_ftz(float a, float b) {
  float r;
  asm("mul.rn.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

// The hardware's fast reciprocal: within one unit in the last place, 1/0 is infinite.
__device__ __forceinline__ float rcp_ftz(float a) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a));
  return r;
}

// The hardware's logarithm. Exact at powers of two; next to one it is off, as any library's is.
__device__ __forceinline__ float log2_of(float x) {
  float r;
  asm("lg2.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

// Comparisons on bits: `x == 0` under -ftz=true holds for every subnormal x as well.
__device__ __forceinline__ u32 magnitude_bits(float x) { return __float_as_uint(x) & 0x7fffffffu; }
__device__ __forceinline__ bool is_zero(float x) { return magnitude_bits(x) == 0; }
__device__ __forceinline__ bool is_nan(float x) { return magnitude_bits(x) > 0x7f800000u; }
__device__ __forceinline__ u32 sign_bit(float x) { return __float_as_uint(x) >> 31; }

// |x|. fabsf would flush subnormals, too: it is an instruction with `.ftz` here.
__device__ __forceinline__ float magnitude(float x) { return __uint_as_float(magnitude_bits(x)); }

// Of two numbers that are not negative. They order as their bits do; fmaxf would flush subnormals.
__device__ __forceinline__ float larger(float a, float b) {
  return __uint_as_float(max(__float_as_uint(a), __float_as_uint(b)));
}

__device__ __forceinline__ float smaller(float a, float b) {
  return __uint_as_float(min(__float_as_uint(a), __float_as_uint(b)));
}

__device__ __forceinline__ float largest_of(float4 v) {
  return larger(larger(magnitude(v.x), magnitude(v.y)), larger(magnitude(v.z), magnitude(v.w)));
}

// To BF16 and back: nearest, ties to even. Adding 0x7fff plus the lowest kept bit carries into the
// upper half exactly when the lower half is above one half, or is one half and that bit is odd. A
// NaN is left alone, as the carry could make an infinity of it.
__device__ __forceinline__ float round_bf16(float x) {
  u32 bits = __float_as_uint(x);
  u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) & 0xffff0000u;
  return is_nan(x) ? x : __uint_as_float(rounded);
}

// What an op keeps of its result: all of it, or a BF16 value in 32 bits (`store` of
// tinymoe/model/precision.py).
__device__ __forceinline__ float stored(float x, int to_bf16) {
  return to_bf16 ? round_bf16(x) : x;
}
