// uses: prims.cuh
//
// Which rows of which expert a block works on. Rows lie in expert order, those of expert e are
// offsets[e] .. offsets[e + 1] - 1, and a tile of ROWS rows never holds those of two experts: so
// tiles are ragged, and an expert without rows has none.
//
// The host does not know the counts (reading them back would stop the GPU, and a captured graph
// cannot), so it starts as many blocks as there could be tiles at worst, and each block finds its
// own: each warp looks at 32 experts at a time and adds up their tiles until its number is passed.

struct Part {
  int expert, row, rows;  // rows 0: there is no such tile
};

template <int ROWS>
__device__ __forceinline__ Part part_of(int tile, const i64 *offsets, int experts) {
  Part mine = {0, 0, 0};
  int first = 0, before = 0;  // tiles of the experts looked at so far
  u32 found = 0;
  do {
    int expert = first + lane_id(), count = 0;
    if (expert < experts) count = offsets[expert + 1] - offsets[expert];
    int tiles = (count + ROWS - 1) / ROWS, upto = before + warp_scan(tiles);
    found = __ballot_sync(ALL, upto > tile);
    int lane = found ? __ffs(found) - 1 : WARP - 1;
    int row = (tile - __shfl_sync(ALL, upto - tiles, lane)) * ROWS;
    count = __shfl_sync(ALL, count, lane);
    if (found) mine = {first + lane, (int)offsets[first + lane] + row, min(ROWS, count - row)};
    before = __shfl_sync(ALL, upto, lane);
    first += WARP;
  } while (!found && first < experts);
  return mine;
}
