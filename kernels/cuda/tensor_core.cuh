// uses: prims.cuh ieee.cuh fp4.cuh
// The tensor core's instructions: a warp multiplies 16 rows by 8 columns in one go.
//
// Operands lie spread over the registers of the 32 lanes. With g = lane / 4 and t = lane % 4, and
// register r holding E values that follow each other along k (E = 2 for 16 bits, 8 for FP4):
//
//   a[r]   row g + 8 * (r % 2), k = E*t .. E*t + E-1, plus 4*E if r >= 2
//   b[r]   column g, k = E*t .. E*t + E-1, plus 4*E if r = 1
//   d[i]   row g + 8 * (i / 2), column 2*t + i % 2
//
// Products are exact; in which order they are summed, and how that rounds, NVIDIA leaves open.

#define GROUP (lane_id() / 4)  // g
#define MEMBER (lane_id() % 4)  // t

__device__ __forceinline__ void mma_f16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_bf16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The upper halves of two floats: as BF16 exact if they are BF16 values, else cut off.
__device__ __forceinline__ u32 bf16x2_cut(float low, float high) {
  return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
}
