// uses: prims.cuh
//
// Where a sequence's keys and values lie: pages of P positions, which its block table lists.

// Row of the page array (pages, P) that holds a position. A division of 64 bits is a loop of some
// hundred instructions; positions fit in 32.
__device__ __forceinline__ i64 slot_of(const i64 *table, int position, int page_size) {
  return table[position / page_size] * page_size + position % page_size;
}

// The earliest key that a token sees: position - window + 1 in a window (the token itself counts:
// with `window` keys before it, every sum has one key too many), the chunk's first in a chunk.
// 0: there is no window, no chunk.
__device__ __forceinline__ int first_seen(int position, int window, int chunk) {
  int first = window ? max(0, position - window + 1) : 0;
  return chunk ? max(first, position / chunk * chunk) : first;
}
