// uses: prims.cuh
// Running sums over a block, for one block that works on a list of any length.

struct Scan {
  int of_warp[WARP];  // sums of the warps, then running sums of those
  int carry;  // of the stretches before this one
};

__device__ __forceinline__ void begin(Scan &scan) {
  if (threadIdx.x == 0) scan.carry = 0;
  __syncthreads();
}

// The sum of `x` over all threads before this one, and over all calls before this one. All threads
// of the block must call. After the last call, `scan.carry` is the sum of everything.
__device__ __forceinline__ int sum_before(Scan &scan, int x) {
  int lane = lane_id(), warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  int through = warp_scan(x);  // own warp, up to and with this thread
  if (lane == WARP - 1) scan.of_warp[warp] = through;
  __syncthreads();
  if (warp == 0) {
    int total = warp_scan(lane < warps ? scan.of_warp[lane] : 0);
    scan.of_warp[lane] = total;
  }
  __syncthreads();
  int before = scan.carry + (warp ? scan.of_warp[warp - 1] : 0) + through - x;
  __syncthreads();  // all have read the carry
  if (threadIdx.x == blockDim.x - 1) scan.carry = before + x;
  __syncthreads();
  return before;
}
