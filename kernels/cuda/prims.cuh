// The few words every kernel here is written in: short type names and what a warp does together.
//
// A warp is 32 threads that run in step. They can hand registers to each other without memory
// ("shuffle"): each lane names the lane it wants to read. The mask says who takes part, and all
// of those must come, so these functions are called by whole warps or not at all.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define ALL 0xffffffffu  // the mask of a full warp
#define WARP 32
#define INF __int_as_float(0x7f800000)  // NVRTC has no INFINITY without headers
#define NAN32 __int_as_float(0x7fc00000)

__device__ __forceinline__ int lane_id() { return threadIdx.x & (WARP - 1); }

// Butterfly reductions: after step o, lanes that differ in bit o alone hold the same value; after
// all five, every lane holds the result. The tree is fixed, so the sum is the same in every run.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int o = WARP / 2; o > 0; o >>= 1) x += __shfl_xor_sync(ALL, x, o);
  return x;
}

__device__ __forceinline__ int warp_sum(int x) {
#pragma unroll
  for (int o = WARP / 2; o > 0; o >>= 1) x += __shfl_xor_sync(ALL, x, o);
  return x;
}

// fmaxf drops a NaN if the other is a number. Here a NaN stays: the maximum of a row with one is
// NaN, as in the definition, and a row of NaN is seen as what it is.
__device__ __forceinline__ float max_nan(float a, float b) {
  return a != a ? a : (b != b ? b : fmaxf(a, b));
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int o = WARP / 2; o > 0; o >>= 1) x = max_nan(x, __shfl_xor_sync(ALL, x, o));
  return x;
}

// Lane l gets the sum of lanes 0 .. l (Hillis and Steele 1986): five steps, each adding what lies
// o to the left. The guard keeps lanes without a neighbour there from adding themselves twice.
__device__ __forceinline__ int warp_scan(int x) {
#pragma unroll
  for (int o = 1; o < WARP; o <<= 1) {
    int left = __shfl_up_sync(ALL, x, o);
    if (lane_id() >= o) x += left;
  }
  return x;
}
