// uses: prims.cuh ieee.cuh fp4.cuh scales_at.cuh tensor_core.cuh warp_tile.cuh
// Four-bit products on the FP4 tensor cores of sm_120 (GeForce and RTX PRO Blackwell).
//
// One instruction multiplies 16 x 64 codes by 64 x 8 and applies the block scales itself: there is
// nothing to decode. A register holds eight codes, as they lie in memory. Scales come in a register
// beside the codes, a byte for each block along k: of A, lane t = 0 of a group has those of row g
// and lane t = 1 those of row g + 8; of B, lane t = 0 has those of column g; the other lanes' are
// not looked at (selectors {0, 0}).

#define DEPTH 64

// Codes k .. k+7 of a row, zeros past its end. K is a multiple of 16: all of a word or nothing.
__device__ __forceinline__ u32 eight_codes(const Rows& m, int row, int k) {
  return k < m.K ? *(const u32*)(m.codes + (i64)row * (m.K / 2) + k / 2) : 0;
}

template <class Format>
__device__ __forceinline__ u32 scales_of(const Rows& m, int row, int k) {
  int columns = m.K / Format::BLOCK;
  return scales_at<DEPTH / Format::BLOCK>(m.scales + (i64)row * columns, k / Format::BLOCK,
                                          columns);
}

#define BLOCK_SCALED_MMA(KIND, VECTOR, SCALE)                                                   \
  asm volatile("mma.sync.aligned.kind::" KIND ".block_scale.scale_vec::" VECTOR                 \
               ".m16n8k64.row.col.f32.e2m1.e2m1.f32." SCALE                                     \
               " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3},"                         \
               " {%10}, {0, 0}, {%11}, {0, 0};"                                                 \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                 \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(sa),     \
                 "r"(sb))

__device__ __forceinline__ void mma_fp4(Nvfp4, float (&d)[4], const u32 (&a)[4],
                                        const u32 (&b)[2], u32 sa, u32 sb) {
  BLOCK_SCALED_MMA("mxf4nvf4", "4X", "ue4m3");
}

__device__ __forceinline__ void mma_fp4(Mxfp4, float (&d)[4], const u32 (&a)[4],
                                        const u32 (&b)[2], u32 sa, u32 sb) {
  BLOCK_SCALED_MMA("mxf4", "2X", "ue8m0");
}

// Sums += 16 rows of x, from row0, times 32 rows of w: 16 from `low`, 16 from `high`.
template <class Format>
struct Blackwell {
  static __device__ __forceinline__ void product(Sums& d, const Rows& x, int row0, const Rows& w,
                                                 int low, int high, int) {
    for (int k0 = 0; k0 < w.K; k0 += DEPTH) {
      int k = k0 + 8 * MEMBER;
      u32 a[4], b[2];
#pragma unroll
      for (int r = 0; r < 4; r++) {
        int row = row_or_last(row0 + GROUP + 8 * (r % 2), x.end);
        a[r] = eight_codes(x, row, k + 32 * (r / 2));
      }
      u32 sa = scales_of<Format>(x, row_or_last(row0 + GROUP + 8 * (MEMBER % 2), x.end), k0);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int row = row_or_last((j < 2 ? low : high) + 8 * (j % 2) + GROUP, w.end);
#pragma unroll
        for (int r = 0; r < 2; r++) b[r] = eight_codes(w, row, k + 32 * r);
        mma_fp4(Format(), d[j], a, b, sa, scales_of<Format>(w, row, k0));
      }
    }
  }
};
