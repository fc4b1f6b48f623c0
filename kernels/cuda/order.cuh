// uses: prims.cuh
// The order in which experts win, as an order of whole numbers.
//
// The rule: the larger value first, the lower index among equals, NaN below every number. Said in
// floats it takes three comparisons, each easy to get wrong: `>=` for `>` gives the higher index,
// a NaN compares false with everything and wins or loses by where it stands (vllm#39288), and
// lanes that break a tie differently choose one expert twice. Said in integers it is one `>`.

#define TAKEN 0u  // chosen already, or no expert: below all that may be chosen
#define ORDER_OF_NAN 1u  // below every number; -inf is 0x007fffff

// Bits of a positive float grow with it; of a negative one they grow as it falls, so those are
// flipped, and put below by the top bit. -0 and +0 are one number and must tie.
__device__ __forceinline__ u32 order_of(float x) {
  u32 bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return ORDER_OF_NAN;
  if (bits == 0x80000000u) bits = 0;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(u32 order) {
  if (order == ORDER_OF_NAN) return NAN32;
  return __uint_as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}

// Value and index in one number. The index is stored upside down, so that the lower one is larger.
// No two experts have the same place: of any two, one wins.
__device__ __forceinline__ u64 place_of(u32 order, int index) {
  return (u64)order << 32 | (0xffffffffu - index);
}

__device__ __forceinline__ u32 order_at(u64 place) { return (u32)(place >> 32); }
__device__ __forceinline__ int index_at(u64 place) { return (int)(0xffffffffu - (u32)place); }

// The best place of a warp, known to all its lanes.
__device__ __forceinline__ u64 warp_best(u64 place) {
#pragma unroll
  for (int o = WARP / 2; o > 0; o >>= 1) {
    u64 other = __shfl_xor_sync(ALL, place, o);
    if (other > place) place = other;
  }
  return place;
}
