// uses: prims.cuh ieee.cuh
//
// RMSNorm: a vector divided by its root mean square, then each dimension times a learned weight.
// What it must equal: tinymoe/model/norm.py. Nobody has run it on a GPU yet.
//
// x, out (rows, n); weight (weight_rows, n), the same for all rows or one for each head: row r
// takes weight row r % weight_rows. `early`: x / rms is rounded to storage before the product with
// the weight (Llama and Qwen do so, Gemma does not; the wrong one is a bf16 step off, everywhere).

__device__ __forceinline__ float scaled(float x, float root, float weight, int early, int bf16) {
  return stored((early ? stored(x / root, bf16) : x / root) * weight, bf16);
}

// One thread a row. Neighbouring threads read addresses n apart: of every 32-byte sector that
// memory delivers, one number is used.
extern "C" __global__ void rmsnorm_naive(float *out, const float *x, const float *weight, int rows,
                                         int n, int weight_rows, float eps, int early, int bf16) {
  int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const float *mine = x + (i64)row * n, *w = weight + (i64)(row % weight_rows) * n;
  float squares = 0.0f;
#pragma unroll 1
  for (int i = 0; i < n; ++i) squares = fmaf(mine[i], mine[i], squares);
  float root = sqrtf(squares / n + eps);
#pragma unroll 1
  for (int i = 0; i < n; ++i) out[(i64)row * n + i] = scaled(mine[i], root, w[i], early, bf16);
}

// One block a row: neighbouring threads read neighbouring numbers. Each thread sums its share, a
// warp adds its 32 shares by shuffles, and the warps' sums meet in shared memory, where every
// thread adds them up in the same order: so all agree on the root to the last bit.
extern "C" __global__ void rmsnorm(float *out, const float *x, const float *weight, int n,
                                   int weight_rows, float eps, int early, int bf16) {
  __shared__ float of_warp[32];
  int row = blockIdx.x, warps = blockDim.x / WARP;
  const float *mine = x + (i64)row * n, *w = weight + (i64)(row % weight_rows) * n;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < n; i += blockDim.x) squares = fmaf(mine[i], mine[i], squares);
  squares = warp_sum(squares);
  if (lane_id() == 0) of_warp[threadIdx.x / WARP] = squares;
  __syncthreads();
  float total = 0.0f;
#pragma unroll 1
  for (int i = 0; i < warps; ++i) total += of_warp[i];
  float root = sqrtf(total / n + eps);
  for (int i = threadIdx.x; i < n; i += blockDim.x)
    out[(i64)row * n + i] = scaled(mine[i], root, w[i], early, bf16);
}
