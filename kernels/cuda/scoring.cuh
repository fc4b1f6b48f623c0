// uses: prims.cuh
// Logits to scores, one number at a time; what it must equal: `score` of tinymoe/model/router.py.

#define SOFTMAX 0
#define SIGMOID 1
#define IDENTITY 2

// 1 / (1 + e^-x), by the half that does not overflow: e^-|x| is at most 1.
__device__ __forceinline__ float sigmoid_of(float x) {
  float power = expf(-fabsf(x));
  return (x >= 0.0f ? 1.0f : power) / (1.0f + power);
}

// `top` and `total` are the softmax's, of the row: its maximum, and the sum of e^(x - top).
// Called twice for a chosen expert, it gives the same bits twice.
__device__ __forceinline__ float score_of(int kind, float x, float top, float total) {
  if (kind == SOFTMAX) return expf(x - top) / total;
  return kind == SIGMOID ? sigmoid_of(x) : x;
}

// A row of E numbers in the registers of a warp: lane l holds elements l, l + 32, l + 64, ..., J of
// them. J is known when compiling, and every loop over it unrolled: a register has no index, so an
// array that is indexed at run time would lie in memory. Where there is no element, `filler`.
template <int J>
__device__ __forceinline__ void load_row(float (&x)[J], const float *row, int size, float filler) {
#pragma unroll
  for (int j = 0; j < J; ++j) {
    int e = lane_id() + WARP * j;
    x[j] = e < size ? row[e] : filler;
  }
}

template <int J>
__device__ __forceinline__ void store_row(float *row, const float (&x)[J], int size) {
#pragma unroll
  for (int j = 0; j < J; ++j) {
    int e = lane_id() + WARP * j;
    if (e < size) row[e] = x[j];
  }
}

// The softmax's two numbers of a row. Without taking the maximum off, e^89 is infinite. A filler of
// -inf adds e^-inf = 0.
template <int J>
__device__ __forceinline__ void softmax_of_row(const float (&x)[J], float *top, float *total) {
  float most = x[0], sum = 0.0f;
#pragma unroll
  for (int j = 1; j < J; ++j) most = max_nan(most, x[j]);
  *top = most = warp_max(most);
#pragma unroll
  for (int j = 0; j < J; ++j) sum += expf(x[j] - most);
  *total = warp_sum(sum);
}
