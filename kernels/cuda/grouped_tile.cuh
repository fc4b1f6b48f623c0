// uses: prims.cuh ieee.cuh fp4.cuh warp_tile.cuh
// Which rows a block of a grouped product works on, and whose weight they meet.
//
// Rows lie in expert order and are cut into tiles of TILE_ROWS that never hold rows of two experts:
// so tiles are ragged, and an expert without rows has none and its weight is never read. The list
// of tiles is permute.cu's `schedule`, three numbers each: expert, first row, row behind the last.
//
// How many tiles there are, the GPU alone knows; the grid is as large as there could be at worst
// (a captured graph cannot change it), and behind the end of the list the expert is -1.

struct Group {
  int expert, row, end;
};

__device__ __forceinline__ Group group_of(const int* tiles, int tile) {
  return {tiles[3 * tile], tiles[3 * tile + 1], tiles[3 * tile + 2]};
}

// The weight of one expert among (E, N, K).
template <class Format>
__device__ __forceinline__ Rows weight_of(const u8* codes, const u8* scales, int expert, int N,
                                          int K) {
  i64 rows = (i64)expert * N;
  return {codes + rows * (K / 2), scales + rows * (K / Format::BLOCK), N, K};
}
