// Pairs of kernels: `..._bad` has one defect, `..._good` does the same work without it.
// Compiled to defects.ptx, for sm_80 and with line numbers. Never run on a GPU.

#define KERNEL extern "C" __global__ void
#define ALL 0xffffffffu

// Each thread takes its neighbour's value; without a barrier it may not be there yet.
template <bool good> __device__ void neighbour(int *out, const int *in) {
  __shared__ int row[128];
  int t = threadIdx.x;
  row[t] = in[t];
  if (good) __syncthreads();
  out[t] = row[(t + 33) % 128];
}
KERNEL neighbour_bad(int *out, const int *in) { neighbour<false>(out, in); }
KERNEL neighbour_good(int *out, const int *in) { neighbour<true>(out, in); }

// A buffer used twice: the second fill must wait until everybody has read the first.
template <bool good> __device__ void refill(int *out, const int *in) {
  __shared__ int row[128];
  int t = threadIdx.x, sum = 0;
  for (int k = 0; k < 2; k++) {
    row[t] = in[t] + k;
    __syncthreads();
    sum += row[127 - t];
    if (good) __syncthreads();
  }
  out[t] = sum;
}
KERNEL refill_bad(int *out, const int *in) { refill<false>(out, in); }
KERNEL refill_good(int *out, const int *in) { refill<true>(out, in); }

// Two blocks add to one word of global memory: only an atomic makes that one number.
KERNEL total_bad(int *out, const int *in) {
  if (threadIdx.x == 0) out[0] += in[blockIdx.x];
}
KERNEL total_good(int *out, const int *in) {
  if (threadIdx.x == 0) atomicAdd(&out[0], in[blockIdx.x]);
}

// The last warp to look reads what others still update by atomics.
template <bool good> __device__ void count(int *out, const int *in) {
  __shared__ int seen;
  if (threadIdx.x == 0) seen = 0;
  __syncthreads();
  if (in[threadIdx.x] & 1) atomicAdd(&seen, 1);
  if (good) __syncthreads();
  out[threadIdx.x] = seen;
}
KERNEL count_bad(int *out, const int *in) { count<false>(out, in); }
KERNEL count_good(int *out, const int *in) { count<true>(out, in); }

// Lanes of one warp hand values on through shared memory: __syncwarp puts them in order.
template <bool good> __device__ void within_warp(int *out, const int *in) {
  __shared__ int row[128];
  int t = threadIdx.x;
  row[t] = in[t];
  if (good) __syncwarp();
  out[t] = row[t ^ 1];
}
KERNEL within_warp_bad(int *out, const int *in) { within_warp<false>(out, in); }
KERNEL within_warp_good(int *out, const int *in) { within_warp<true>(out, in); }

// A shuffle orders no memory, though all lanes meet in it.
template <bool good> __device__ void shuffle_is_no_fence(int *out, const int *in) {
  __shared__ int row[128];
  int t = threadIdx.x;
  row[t] = in[t];
  int other = __shfl_xor_sync(ALL, t, 1);
  if (good) __syncwarp();
  out[t] = row[other];
}
KERNEL shuffle_is_no_fence_bad(int *out, const int *in) { shuffle_is_no_fence<false>(out, in); }
KERNEL shuffle_is_no_fence_good(int *out, const int *in) { shuffle_is_no_fence<true>(out, in); }

// The mask must name every lane that calls.
KERNEL mask_bad(int *out, const int *in) {
  int t = threadIdx.x;
  out[t] = __shfl_down_sync(0x0000ffffu, in[t], 1);
}
KERNEL mask_good(int *out, const int *in) {
  int t = threadIdx.x;
  out[t] = __shfl_down_sync(ALL, in[t], 1);
}

// An early return, and then a shuffle for all: the lanes that left will not come.
KERNEL early_return_bad(int *out, const int *in, int n) {
  int t = threadIdx.x;
  if (t >= n) return;
  out[t] = __shfl_xor_sync(ALL, in[t], 1);
}
KERNEL early_return_good(int *out, const int *in, int n) {
  int t = threadIdx.x;
  int value = __shfl_xor_sync(ALL, t < n ? in[t] : 0, 1);
  if (t < n) out[t] = value;
}

// Half a warp asks the other half, which takes no part.
KERNEL absent_source_bad(int *out, const int *in) {
  int t = threadIdx.x, value = in[t];
  if ((t & 31) < 16) value = __shfl_xor_sync(0x0000ffffu, value, 16);
  out[t] = value;
}
KERNEL absent_source_good(int *out, const int *in) {
  int t = threadIdx.x, value = in[t];
  if ((t & 31) < 16) value = __shfl_xor_sync(0x0000ffffu, value, 8);
  out[t] = value;
}

// Half the warp waits in a ballot for lanes that wait for it at the barrier.
KERNEL never_comes_bad(int *out, const int *in) {
  int t = threadIdx.x;
  if ((t & 31) < 16) out[t] = __ballot_sync(ALL, in[t] > 0);
  __syncthreads();
}
KERNEL never_comes_good(int *out, const int *in) {
  int t = threadIdx.x;
  int votes = __ballot_sync(ALL, in[t] > 0);
  if ((t & 31) < 16) out[t] = votes;
  __syncthreads();
}

// A loop one step too long.
KERNEL tail_bad(int *out, const int *in, int n) {
  for (int i = threadIdx.x; i <= n; i += 32) out[i] = in[i];
}
KERNEL tail_good(int *out, const int *in, int n) {
  for (int i = threadIdx.x; i < n; i += 32) out[i] = in[i];
}

// Past the end of one shared array, and so into the next.
template <int last> __device__ void overrun(int *out, const int *in) {
  __shared__ int first[32], second[32];
  int t = threadIdx.x;
  first[t] = in[t];
  second[t] = -1;
  __syncthreads();
  out[t] = first[min(t + 1, last)] + second[t];
}
KERNEL overrun_bad(int *out, const int *in) { overrun<32>(out, in); }
KERNEL overrun_good(int *out, const int *in) { overrun<31>(out, in); }

// Four numbers at once need an address that is a multiple of 16.
KERNEL vector_bad(int *out, const int *in) {
  int4 four = *(const int4 *)(in + 1 + 4 * threadIdx.x);
  out[threadIdx.x] = four.x + four.y + four.z + four.w;
}
KERNEL vector_good(int *out, const int *in) {
  int4 four = *(const int4 *)(in + 4 * threadIdx.x);
  out[threadIdx.x] = four.x + four.y + four.z + four.w;
}

// A barrier that only some threads reach.
KERNEL barrier_bad(int *out, const int *in) {
  if (threadIdx.x < 64) {
    out[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
  } else {
    out[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = 2;
  }
}
KERNEL barrier_good(int *out, const int *in) {
  if (threadIdx.x < 64) out[threadIdx.x] = in[threadIdx.x];
  else out[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x >= 64) out[threadIdx.x] = 2;
}

// A barrier for 96 threads that 64 come to.
KERNEL named_bad(int *out, const int *in) {
  if (threadIdx.x < 64) asm volatile("bar.sync 1, 96;" ::: "memory");
  out[threadIdx.x] = in[threadIdx.x];
}
KERNEL named_good(int *out, const int *in) {
  if (threadIdx.x < 64) asm volatile("bar.sync 1, 64;" ::: "memory");
  out[threadIdx.x] = in[threadIdx.x];
}

// Block 0 waits for a flag that block 1 raises, or forgets to.
template <bool good> __device__ void wait_for(int *out, int *flag) {
  if (threadIdx.x) return;
  if (blockIdx.x == 0) {
    while (atomicAdd(flag, 0) == 0) {}
    out[0] = 7;
  } else if (good) {
    atomicExch(flag, 1);
  }
}
KERNEL wait_bad(int *out, int *flag) { wait_for<false>(out, flag); }
KERNEL wait_good(int *out, int *flag) { wait_for<true>(out, flag); }

// Every thread stores its own number in one place: which one stays?
KERNEL last_bad(int *out, const int *in) { out[0] = in[threadIdx.x]; }
KERNEL last_good(int *out, const int *in) {
  if (threadIdx.x == blockDim.x - 1) out[0] = in[threadIdx.x];
}

// A lock that its holder gives back, or not; the others spin, in the same warp.
template <bool good> __device__ void lock_add(int *out, int *lock) {
  bool done = false;
  while (!done) {
    if (atomicCAS(lock, 0, 1) == 0) {
      atomicAdd(out, 1);
      if (good) atomicExch(lock, 0);
      done = true;
    }
  }
}
KERNEL lock_bad(int *out, int *lock) { lock_add<false>(out, lock); }
KERNEL lock_good(int *out, int *lock) { lock_add<true>(out, lock); }

// An array in local memory, indexed past its end.
template <int extra> __device__ void local_array(int *out, const int *in) {
  int held[8];
  for (int k = 0; k < 8; k++) held[k] = in[(threadIdx.x + k) & 31];
  out[threadIdx.x] = held[(in[threadIdx.x] & 7) + extra];
}
KERNEL local_bad(int *out, const int *in) { local_array<4>(out, in); }
KERNEL local_good(int *out, const int *in) { local_array<0>(out, in); }

// The last block to finish sums what all wrote: each must fence between its number and the count.
template <bool good> __device__ void last_block(int *out, const int *in, int *parts, int *done) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = 2 * in[blockIdx.x];
    if (good) __threadfence();
    last = atomicAdd(done, 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    int sum = 0;
    for (int b = 0; b < gridDim.x; b++) sum += parts[b];
    out[0] = sum;
    *done = 0;
  }
}
KERNEL last_block_bad(int *out, const int *in, int *parts, int *done) {
  last_block<false>(out, in, parts, done);
}
KERNEL last_block_good(int *out, const int *in, int *parts, int *done) {
  last_block<true>(out, in, parts, done);
}
