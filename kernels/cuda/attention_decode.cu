// uses: softmax_tile.cuh pages.cuh ieee.cuh
//
// One new token of each of R sequences looks back over its paged keys. What it must equal:
// tinymoe/model/attention.py. Nobody has run it on a GPU yet.
//
// q (R, heads, size), out (R, heads, value_size); key_pages (pages, P, kv_heads, size), value_pages
// likewise, but with `value_step` numbers from row to row, as latent attention's values are a part
// of its keys; tables (R, width): page numbers; positions (R,): of the new tokens, whose keys are
// in their pages already; sinks (heads,) or a null pointer. Key head h serves query heads h*g ..
// h*g + g - 1, g = heads / kv_heads. Lengths are read here and not by the host: the grid is the
// same for every step, and a CUDA graph can replay it.

// One thread a head, twice over the keys: for the largest score, then for the sums.
extern "C" __global__ void attention_decode_naive(
    float *out, const float *q, const float *key_pages, const float *value_pages, const i64 *tables,
    const i64 *positions, const float *sinks, int rows, int heads, int kv_heads, int size,
    int value_size, int value_step, int page_size, int width, int window, int chunk, float scale,
    int bf16) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows * heads) return;
  int row = i / heads, head = i % heads, kv_head = head / (heads / kv_heads);
  __builtin_assume(size > 0 && value_size > 0);  // else there is a second kernel here, for none
  int last = positions[row], first = first_seen(last, window, chunk);
  float *mine = out + (i64)i * value_size;
#pragma unroll 1
  for (int d = 0; d < value_size; ++d) mine[d] = 0.0f;
  float top = sinks ? sinks[head] : -INF, total = 0.0f;
  for (int pass = 0; pass < 2; ++pass) {
    if (pass && sinks) total = expf(sinks[head] - top);
    for (int position = first; position <= last; ++position) {
      i64 slot = slot_of(tables + (i64)row * width, position, page_size) * kv_heads + kv_head;
      float dot = 0.0f;
#pragma unroll 1
      for (int d = 0; d < size; ++d)
        dot = fmaf(q[(i64)i * size + d], key_pages[slot * size + d], dot);
      if (pass == 0) {
        top = max_nan(top, dot * scale);
        continue;
      }
      float weight = expf(dot * scale - top);
      total += weight;
#pragma unroll 1
      for (int d = 0; d < value_size; ++d)
        mine[d] = fmaf(weight, value_pages[slot * value_step + d], mine[d]);
    }
  }
#pragma unroll 1
  for (int d = 0; d < value_size; ++d) mine[d] = stored(mine[d] / total, bf16);
}

// One warp a head. The warps of a block are neighbouring heads: those on the same key head read
// the same keys at about the same time, and all but the first find them in the cache.
// Grid (R, heads / warps of a block, rounded up).
template <int CHUNKS>
__device__ __forceinline__ void decode(float *out, const float *q, const float *key_pages,
                                       const float *value_pages, const i64 *tables,
                                       const i64 *positions, const float *sinks, int heads,
                                       int kv_heads, int size, int value_size, int value_step,
                                       int page_size, int width, int window, int chunk, float scale,
                                       int bf16) {
  int row = blockIdx.x, head = blockIdx.y * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (head >= heads) return;  // a whole warp
  int kv_head = head / (heads / kv_heads);
  i64 query = (i64)row * heads + head;
  const i64 *table = tables + (i64)row * width;
  int last = positions[row], first = first_seen(last, window, chunk);
  Looking<CHUNKS> me;
  begin(me, q + query * size, size, sinks ? sinks + head : nullptr);
  for (int tile = first / TILE * TILE; tile <= last; tile += TILE) {
    int position = tile + lane_id(), at = 0;
    bool mine = position >= first && position <= last;
    if (mine) at = slot_of(table, position, page_size) * kv_heads + kv_head;
    u32 seen = __ballot_sync(ALL, mine);
    float weight = weights_of(me, scores_of(me, key_pages, size, size, at, seen, scale));
    mix_in(me, value_pages, value_size, value_step, at, seen, weight);
  }
  finish(me, out + query * value_size, value_size, bf16);
}

#define DECODE(NAME, CHUNKS)                                                                      \
  extern "C" __global__ void NAME(                                                                \
      float *out, const float *q, const float *key_pages, const float *value_pages,               \
      const i64 *tables, const i64 *positions, const float *sinks, int heads, int kv_heads,       \
      int size, int value_size, int value_step, int page_size, int width, int window, int chunk,  \
      float scale, int bf16) {                                                                    \
    decode<CHUNKS>(out, q, key_pages, value_pages, tables, positions, sinks, heads, kv_heads,     \
                   size, value_size, value_step, page_size, width, window, chunk, scale, bf16);   \
  }

// Registers have no index, so how many numbers a lane holds is decided here: heads of up to 32,
// 64, 128 and 256 numbers.
DECODE(attention_decode_32, 1)
DECODE(attention_decode_64, 2)
DECODE(attention_decode_128, 4)
DECODE(attention_decode_256, 8)
