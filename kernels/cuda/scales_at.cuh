// uses: prims.cuh
// COUNT scales of a row that follow each other along K as one register, the first one low; 0 past
// the row's end. One load where rows of scales stay aligned, which needs their number to be a
// multiple of COUNT: a row of 80 values has five scales, and its successor starts anywhere.
template <int COUNT>
__device__ __forceinline__ u32 scales_at(const u8* row, int first, int columns) {
  if (columns % COUNT == 0) {
    if (first >= columns) return 0;
    return COUNT == 4 ? *(const u32*)(row + first) : *(const u16*)(row + first);
  }
  u32 word = 0;
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    if (first + i < columns) word |= (u32)row[first + i] << (8 * i);
  }
  return word;
}
