// uses: prims.cuh
//
// Dot products of one row of a weight with ROWS rows of x, by one warp.
//
// Lane l takes terms l, l + 32, l + 64, ...: neighbouring lanes read neighbouring numbers, 128 bytes
// at a time, of W and of x alike. A weight comes from memory once and meets ROWS rows in registers.
// In the end 32 partial sums go through a tree.
//
// The order of a sum depends on its length alone, not on ROWS. So a token has the same bits alone
// and in company ("batch invariance"): a product that picks its order by the number of tokens
// changes a text with what other users ask for.

// x: `rows` rows of `in` numbers, 1 <= rows <= ROWS. Missing ones are the last one once more: no
// branch, nothing read past the end, and a result that nobody takes.
template <int ROWS>
__device__ __forceinline__ void dots(float (&sum)[ROWS], const float *x, int rows, const float *w,
                                     int in) {
  const float *row[ROWS];
#pragma unroll
  for (int m = 0; m < ROWS; ++m) {
    row[m] = x + (i64)min(m, rows - 1) * in;
    sum[m] = 0.0f;
  }
#pragma unroll 2
  for (int k = lane_id(); k < in; k += WARP) {
    float own = w[k];
#pragma unroll
    for (int m = 0; m < ROWS; ++m) sum[m] = fmaf(row[m][k], own, sum[m]);
  }
#pragma unroll
  for (int m = 0; m < ROWS; ++m) sum[m] = warp_sum(sum[m]);
}

// Every lane holds all sums; lane m takes the m-th, so that the end of a kernel is written once.
// A register has no index: sum[lane_id()] would move the array to memory.
template <int ROWS>
__device__ __forceinline__ float own_sum(const float (&sum)[ROWS]) {
  float own = sum[0];
#pragma unroll
  for (int m = 1; m < ROWS; ++m) own = lane_id() == m ? sum[m] : own;
  return own;
}
