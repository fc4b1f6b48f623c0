// uses: scan.cuh
//
// The slots of ids (slots,) = (tokens * K,) sorted by expert, equal experts in the order of slots:
// order (slots,), and offsets (experts + 1,). What it must equal: `permute` of
// tinymoe/model/experts.py. Nobody has run it on a GPU yet.
//
// Few different keys, so nothing is compared: count them, sum the counts, and each slot knows its
// place. "Stable" is the hard part: two blocks that took the next free place from an atomic
// counter would give another order in every run, and sums over experts other last bits.

// ---- first rung: one thread an expert, which reads every id. Three launches.

extern "C" __global__ void count_naive(i64 *counts, const i64 *ids, int slots, int experts) {
  int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= experts) return;
  int count = 0;
  for (int i = 0; i < slots; ++i) count += ids[i] == e;
  counts[e] = count;
}

extern "C" __global__ void offsets_naive(i64 *offsets, const i64 *counts, int experts) {
  if (blockIdx.x || threadIdx.x) return;  // one thread of all
  offsets[0] = 0;
  for (int e = 0; e < experts; ++e) offsets[e + 1] = offsets[e] + counts[e];
}

extern "C" __global__ void place_naive(i64 *order, const i64 *offsets, const i64 *ids, int slots,
                                       int experts) {
  int e = blockIdx.x * blockDim.x + threadIdx.x;
  if (e >= experts) return;
  i64 at = offsets[e];
  for (int i = 0; i < slots; ++i)
    if (ids[i] == e) order[at++] = i;
}

// ---- second rung: one thread a slot. Three launches again, each id read twice.

// How often each expert is in a block's slots: counts (blocks, experts). Dynamic shared memory: an
// int an expert. The atomics stay inside the block, and a count is the same in any order.
extern "C" __global__ void histogram(int *counts, const i64 *ids, int slots, int experts) {
  extern __shared__ int seen[];
  for (int e = threadIdx.x; e < experts; e += blockDim.x) seen[e] = 0;
  __syncthreads();
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < slots) atomicAdd(&seen[ids[i]], 1);
  __syncthreads();
  for (int e = threadIdx.x; e < experts; e += blockDim.x)
    counts[blockIdx.x * experts + e] = seen[e];
}

// One block. counts (blocks, experts) become starts: where a block's first slot of an expert goes,
// which is behind all slots of lower experts, and behind those of this one in the blocks before.
extern "C" __global__ void scan(i64 *offsets, int *counts, int blocks, int experts) {
  __shared__ Scan running;
  begin(running);
  for (int first = 0; first < experts; first += blockDim.x) {
    int e = first + threadIdx.x, total = 0;
    if (e < experts)
      for (int b = 0; b < blocks; ++b) total += counts[b * experts + e];
    int start = sum_before(running, total);
    if (e >= experts) continue;  // to the loop's end, with all barriers behind
    offsets[e] = start;
    for (int b = 0; b < blocks; ++b) {
      int count = counts[b * experts + e];
      counts[b * experts + e] = start;
      start += count;
    }
  }
  if (threadIdx.x == 0) offsets[experts] = running.carry;
}

// order, and its inverse `where` (slots,) unless that is null. Dynamic shared memory: an int an
// expert, the next free place of this block. The warps take their turns, in order; within a warp,
// lanes with the same expert find each other in one instruction and go by lane.
extern "C" __global__ void place(i64 *order, i64 *where, const i64 *ids, const int *starts,
                                 int slots, int experts) {
  extern __shared__ int next[];
  for (int e = threadIdx.x; e < experts; e += blockDim.x)
    next[e] = starts[blockIdx.x * experts + e];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  int e = i < slots ? (int)ids[i] : -1;
  u32 peers = __match_any_sync(ALL, e);  // a bit for each lane with my expert
  int before = __popc(peers & ((1u << lane_id()) - 1));
  __syncthreads();
  for (int turn = 0; turn < blockDim.x / WARP; ++turn) {
    if (threadIdx.x / WARP == turn) {
      int at = i < slots ? next[e] + before : 0;
      __syncwarp();  // all have read, then one writes
      if (i < slots) {
        if (before == 0) next[e] += __popc(peers);
        order[at] = i;
        if (where) where[i] = at;
      }
    }
    __syncthreads();
  }
}

// ---- for a grouped GEMM whose blocks are tiles of `rows` rows of one expert each

// tiles (most, 3): expert, first row, row behind the last; expert -1: nothing to do. Experts have
// other counts in every step, and a captured graph has one grid: it is sized for the worst case,
// most = slots / rows + min(experts, slots), and blocks without a tile leave. One block.
extern "C" __global__ void schedule(int *tiles, const i64 *offsets, int experts, int rows,
                                    int most) {
  __shared__ Scan running;
  begin(running);
  for (int first = 0; first < experts; first += blockDim.x) {
    int e = first + threadIdx.x;
    int start = e < experts ? (int)offsets[e] : 0, stop = e < experts ? (int)offsets[e + 1] : 0;
    int tile = sum_before(running, (stop - start + rows - 1) / rows);
    for (int row = start; row < stop; row += rows, ++tile) {
      tiles[3 * tile] = e;
      tiles[3 * tile + 1] = row;
      tiles[3 * tile + 2] = min(row + rows, stop);
    }
  }
  for (int tile = running.carry + threadIdx.x; tile < most; tile += blockDim.x) {
    tiles[3 * tile] = -1;
    tiles[3 * tile + 1] = tiles[3 * tile + 2] = 0;
  }
}
