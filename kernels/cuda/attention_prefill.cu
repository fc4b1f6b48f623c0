// uses: softmax_tile.cuh pages.cuh ieee.cuh
//
// Consecutive tokens of one sequence, the first at position `start`, look back over its paged keys:
// token t sees 0 .. start + t, but for what window and chunk hide. What it must equal:
// tinymoe/model/attention.py. Nobody has run it on a GPU yet.
//
// Each token could run `attention_decode` by itself, and the bits are the same. But neighbouring
// tokens see nearly the same keys: here the WARPS queries of a block share each tile, which is read
// from memory once. Keys and values take turns in the same shared memory.
//
// q (tokens, heads, size), out (tokens, heads, value_size); pages as in attention_decode.cu; table
// (pages of the sequence,). A block's queries are those of one key head, tokens and then heads:
// query number n of key head h is head h*g + n % g of token n / g.
// Grid (tokens * g / WARPS, rounded up, kv_heads), block WARPS * 32.

#define WARPS 8

template <int CHUNKS>
__device__ __forceinline__ void load_tile(float (&held)[TILE][CHUNKS * WARP], const float *pages,
                                          const i64 *table, int tile, int first, int last,
                                          int page_size, int kv_heads, int kv_head, int size,
                                          int step) {
#pragma unroll
  for (int i = 0; i < TILE; i += WARPS) {  // a length the compiler knows: four rows under way
    int j = i + threadIdx.x / WARP, position = tile + j;
    if (position < first || position > last) continue;
    const float *row = pages + (slot_of(table, position, page_size) * kv_heads + kv_head) * step;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
      int d = lane_id() + WARP * c;
      if (d < size) held[j][d] = row[d];
    }
  }
}

template <int CHUNKS>
__device__ __forceinline__ void prefill(float *out, const float *q, const float *key_pages,
                                        const float *value_pages, const i64 *table,
                                        const float *sinks, int tokens, int start, int heads,
                                        int kv_heads, int size, int value_size, int value_step,
                                        int page_size, int window, int chunk, float scale,
                                        int bf16) {
  __shared__ float held[TILE][CHUNKS * WARP];
  int group = heads / kv_heads, kv_head = blockIdx.y;
  int begins = blockIdx.x * WARPS, ends = min(begins + WARPS, tokens * group);
  int mine = begins + threadIdx.x / WARP;
  bool active = mine < ends;  // a warp without a query still helps to load, and comes to barriers
  int token = active ? mine / group : 0, head = kv_head * group + mine % group;
  int last = start + token, first = first_seen(last, window, chunk);
  int block_first = first_seen(start + begins / group, window, chunk);
  int block_last = start + (ends - 1) / group;
  i64 query = (i64)token * heads + (active ? head : 0);
  Looking<CHUNKS> me;
  begin(me, q + query * size, size, sinks && active ? sinks + head : nullptr);
  for (int tile = block_first / TILE * TILE; tile <= block_last; tile += TILE) {
    int position = tile + lane_id();
    u32 seen = __ballot_sync(ALL, active && position >= first && position <= last);
    load_tile<CHUNKS>(held, key_pages, table, tile, block_first, block_last, page_size, kv_heads,
                      kv_head, size, size);
    __syncthreads();
    float score = scores_of(me, &held[0][0], size, CHUNKS * WARP, lane_id(), seen, scale);
    __syncthreads();  // all have read the keys
    load_tile<CHUNKS>(held, value_pages, table, tile, block_first, block_last, page_size, kv_heads,
                      kv_head, value_size, value_step);
    __syncthreads();
    if (seen) {
      float weight = weights_of(me, score);
      mix_in(me, &held[0][0], value_size, CHUNKS * WARP, lane_id(), seen, weight);
    }
    __syncthreads();  // all have read the values
  }
  if (active) finish(me, out + query * value_size, value_size, bf16);
}

#define PREFILL(NAME, CHUNKS)                                                                     \
  extern "C" __global__ void NAME(                                                                \
      float *out, const float *q, const float *key_pages, const float *value_pages,               \
      const i64 *table, const float *sinks, int tokens, int start, int heads, int kv_heads,       \
      int size, int value_size, int value_step, int page_size, int window, int chunk,             \
      float scale, int bf16) {                                                                    \
    prefill<CHUNKS>(out, q, key_pages, value_pages, table, sinks, tokens, start, heads, kv_heads, \
                    size, value_size, value_step, page_size, window, chunk, scale, bf16);         \
  }

PREFILL(attention_prefill_32, 1)
PREFILL(attention_prefill_64, 2)
PREFILL(attention_prefill_128, 4)
PREFILL(attention_prefill_256, 8)
