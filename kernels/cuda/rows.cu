// uses: prims.cuh ieee.cuh
//
// What lies between the ops: rows of the embedding to start with, a token's row for each of its
// experts, and what a part of a layer gives added to what goes past it. What they must equal:
// `embed`, `moe_block` and `added` of tinymoe/model/transformer.py. Nobody has run them on a GPU yet.

// Rounded to storage after the product, and again after the sum; x * 1 is x.
__device__ __forceinline__ float times(float x, float factor, int bf16) {
  return stored(x * factor, bf16);
}

// out (rows, width): row ids[r] / per of table (..., width), times a constant of the family.
// Embedding: per = 1. To the experts: ids are the slots t * K + k in expert order, per = K.
extern "C" __global__ void take_rows(float *out, const float *table, const i64 *ids, int rows,
                                     int width, int per, float factor, int bf16) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows * width) return;
  out[i] = times(table[(i64)((int)ids[i / width] / per) * width + i % width], factor, bf16);
}

// out (n,) = x + factor * part. `out` may be `x`: each thread reads its own number first.
extern "C" __global__ void add_to(float *out, const float *x, const float *part, int n,
                                  float factor, int bf16) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = stored(x[i] + times(part[i], factor, bf16), bf16);
}
