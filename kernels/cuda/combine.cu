// uses: ieee.cuh
//
// Each token's experts back together: out (tokens, width) = sum over K of weight times row. What it
// must equal: `combine` of tinymoe/model/experts.py. Nobody has run it on a GPU yet.
//
// rows (tokens * K, width) in expert order, with `where` (tokens * K,) saying in which row a slot
// t * K + k is; or in the order of slots, with a null pointer. weights (tokens, K).

// The sum in the order of the weights, largest first, whatever experts they belong to: the same
// bits in every run and every batch. One thread an output.
extern "C" __global__ void combine(float *out, const float *rows, const i64 *where,
                                   const float *weights, int tokens, int top_k, int width,
                                   int bf16) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= tokens * width) return;
  int t = i / width, h = i % width;
  float sum = 0.0f;
  for (int k = 0; k < top_k; ++k) {
    i64 slot = (i64)t * top_k + k, row = where ? where[slot] : slot;
    float w = weights[slot], x = rows[row * width + h];
    sum = k == 0 ? w * x : fmaf(w, x, sum);
  }
  out[i] = stored(sum, bf16);
}

// Four outputs a thread, in loads and stores of 16 bytes: a quarter of the instructions for the
// same bytes, and the place and the weight of a slot are read a quarter as often. Same bits.
// `width` must be a multiple of 4.
extern "C" __global__ void combine_4(float4 *out, const float4 *rows, const i64 *where,
                                     const float *weights, int tokens, int top_k, int width,
                                     int bf16) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, quads = width / 4;
  if (i >= tokens * quads) return;
  int t = i / quads, h = i % quads;
  float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int k = 0; k < top_k; ++k) {
    i64 slot = (i64)t * top_k + k, row = where ? where[slot] : slot;
    float w = weights[slot];
    float4 x = rows[row * quads + h];
    sum.x = k == 0 ? w * x.x : fmaf(w, x.x, sum.x);
    sum.y = k == 0 ? w * x.y : fmaf(w, x.y, sum.y);
    sum.z = k == 0 ? w * x.z : fmaf(w, x.z, sum.z);
    sum.w = k == 0 ? w * x.w : fmaf(w, x.w, sum.w);
  }
  float4 rounded = {stored(sum.x, bf16), stored(sum.y, bf16), stored(sum.z, bf16),
                    stored(sum.w, bf16)};
  out[i] = rounded;
}

// For comparison: each row adds itself to its token, in whatever order the GPU comes to it. It
// needs no `where`, and its result differs in the last bits from run to run. `out` begins as
// zeros; order (tokens * K,) is the slot of a row, or null. One thread an input.
extern "C" __global__ void combine_scatter(float *out, const float *rows, const i64 *order,
                                           const float *weights, int slots, int top_k, int width) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= slots * width) return;
  int row = i / width, h = i % width, slot = order ? (int)order[row] : row;
  atomicAdd(&out[(i64)(slot / top_k) * width + h], weights[slot] * rows[i]);
}

// After a scatter, whose sums must be complete before they are rounded.
extern "C" __global__ void round_in_place(float *x, int count) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) x[i] = round_bf16(x[i]);
}
