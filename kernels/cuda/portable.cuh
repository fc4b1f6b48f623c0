// uses: prims.cuh ieee.cuh fp4.cuh tensor_core.cuh warp_tile.cuh
// Four-bit products on tensor cores that know only 16 bits (sm_80 and later): decode, then mma.
//
// A lane loads words of eight codes, lane t of a group those from 8t on, 32 of k at a time. The mma
// wants other places of k in each register (tensor_core.cuh). But a sum does not care in which
// order k runs, as long as both operands agree: here mma number q (0, 1) gets, in register r of
// either operand, codes p and p + 4 of the word, p = 2q + r / 2 for A and 2q + r for B. No data
// moves.
//
//   W4A4 NVFP4   code times scale has 6 significant bits and lies in 2^-10 .. 2688: exact in f16
//   W4A4 MXFP4   code times a power of two up to 2^127: exact in BF16, which has f32's exponents
//   W4A16        weights likewise in BF16, and x in BF16 or in three pieces of it: see Floats

// Codes p and p + 4 of a word times their scale, in 16 bits each.
struct InF16 {
  template <class Format>
  static __device__ __forceinline__ u32 scale(u32 byte, int) {
    return e4m3_to_f16x2(byte & 0x7f);  // the sign bit does not count, as in the FP4 tensor core
  }
  template <class Format>
  static __device__ __forceinline__ u32 pair(u32 codes, int p, u32 scale) {
    u32 value;
    asm("mul.f16x2 %0, %1, %2;" : "=r"(value) : "r"(e2m1_to_f16x2(codes, p)), "r"(scale));
    return value;
  }
  static __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    mma_f16(d, a, b);
  }
};

struct InBf16 {
  template <class Format>
  static __device__ __forceinline__ float scale(u32 byte, int reading) {
    return Format::scale(byte, reading);
  }
  template <class Format>
  static __device__ __forceinline__ u32 pair(u32 codes, int p, float scale) {
    float2 v = Format::values(codes, p, scale);
    return bf16x2_cut(v.x, v.y);
  }
  static __device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    mma_bf16(d, a, b);
  }
};

// Pairs 0 .. 3 of a row's word at k; zeros past the row's end.
template <class Kind, class Format>
__device__ __forceinline__ void four_pairs(u32 (&pairs)[4], const Rows& m, int row, int k,
                                           int reading) {
  Word word = {};
  if (k < m.K) word = word_at<Format>(m, row, k);
  auto scale = Kind::template scale<Format>(word.scale, reading);
#pragma unroll
  for (int p = 0; p < 4; p++) pairs[p] = Kind::template pair<Format>(word.codes, p, scale);
}

// The words of rows g and g + 8 of 16, as A of two mma.
template <class Kind, class Format>
__device__ __forceinline__ void load_left(u32 (&a)[1][2][4], const Rows& m, int row0, int k) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    u32 pairs[4];
    four_pairs<Kind, Format>(pairs, m, row_or_last(row0 + GROUP + 8 * half, m.end), k, READ_NAN);
#pragma unroll
    for (int p = 0; p < 4; p++) a[0][p / 2][half + 2 * (p % 2)] = pairs[p];
  }
}

// Numbers as a left operand. BF16 values are one piece. A float32 is the sum of three BF16 numbers:
// its upper 8 significant bits, the next 8, the last 8. Each times the weight, all added up: the
// accuracy of float32 from a 16-bit tensor core, at three times the work. Pieces are cut off, not
// rounded, so they have x's sign and add up to x: sums that are exact in float32 are so here. (An
// infinite x leaves infinity minus infinity to the second piece: its row is NaN.)
template <int PIECES>
struct Floats {
  const float* x;  // (rows, K)
  int end, K;
};

__device__ __forceinline__ float upper_half(float x) {
  return __uint_as_float(__float_as_uint(x) & 0xffff0000u);
}

template <class Kind, class Format, int PIECES>
__device__ __forceinline__ void load_left(u32 (&a)[PIECES][2][4], const Floats<PIECES>& m,
                                          int row0, int k) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = row_or_last(row0 + GROUP + 8 * half, m.end);
    float v[8] = {};
    if (k < m.K) {
      const float4* from = (const float4*)(m.x + (i64)row * m.K + k);
      float4 low = from[0], high = from[1];
      v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
      v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
    }
#pragma unroll
    for (int i = 0; i < PIECES * 4; i++) {
      int piece = i / 4, p = i % 4;
      a[piece][p / 2][half + 2 * (p % 2)] = bf16x2_cut(v[p], v[p + 4]);
      v[p] = sub_rn(v[p], upper_half(v[p]));  // what is left for the next piece
      v[p + 4] = sub_rn(v[p + 4], upper_half(v[p + 4]));
    }
  }
}

// Sums += 16 rows of x, from row0, times 32 rows of w: 16 from `low`, 16 from `high`.
template <class Format, class Kind, int PIECES = 1>
struct Portable {
  template <class X>
  static __device__ __forceinline__ void product(Sums& d, const X& x, int row0, const Rows& w,
                                                 int low, int high, int reading) {
    for (int k0 = 0; k0 < w.K; k0 += 32) {
      int k = k0 + 8 * MEMBER;  // this lane's word, if the row is that long
      u32 a[PIECES][2][4], pairs[4];
      load_left<Kind, Format>(a, x, row0, k);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int row = row_or_last((j < 2 ? low : high) + 8 * (j % 2) + GROUP, w.end);
        four_pairs<Kind, Format>(pairs, w, row, k, reading);
        u32 b[2][2] = {{pairs[0], pairs[1]}, {pairs[2], pairs[3]}};
#pragma unroll
        for (int i = 0; i < 2 * PIECES; i++) Kind::mma(d[j], a[i / 2][i % 2], b[i % 2]);
      }
    }
  }
};
