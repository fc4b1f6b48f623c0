// uses: softmax_tile.cuh pages.cuh ieee.cuh
//
// Decode attention over latent vectors (MLA, DeepSeek-V2) in the absorbed form: all heads look at
// one key [c | k_rope] of `size` = R + Dr numbers, and its first R numbers, c, are the value. What
// it must equal: tinymoe/model/latent.py. Nobody has run it on a GPU yet.
//
// What makes it worth a kernel of its own: there is one key for up to 128 heads, and a value that
// is already here. A tile is read from memory once and serves as keys and as values of the WARPS
// heads of a block. `attention_decode` reads it twice a head, with the same bits in the end, if
// its tiles have the same size.
//
// q (R, heads, size), out (R, heads, value_size); pages (pages, P, size); tables (R, width),
// positions (R,) as in attention_decode.cu. Grid (R, heads / WARPS, rounded up), block WARPS * 32.

#define WARPS 8
#define CHUNKS 18  // of 32 numbers: 576, DeepSeek's 512 + 64
#define KEYS 16    // of a tile: 36 KB of the 48 KB that a block may have without asking

extern "C" __global__ void attention_latent(float *out, const float *q, const float *pages,
                                            const i64 *tables, const i64 *positions, int heads,
                                            int size, int value_size, int page_size, int width,
                                            float scale, int bf16) {
  __shared__ float held[KEYS][CHUNKS * WARP];
  int row = blockIdx.x, head = blockIdx.y * WARPS + threadIdx.x / WARP, last = positions[row];
  bool active = head < heads;  // a warp without a head still loads, and comes to the barriers
  i64 query = (i64)row * heads + (active ? head : 0);
  const i64 *table = tables + (i64)row * width;
  Looking<CHUNKS> me;
  begin(me, q + query * size, size, nullptr);
  for (int tile = 0; tile <= last; tile += KEYS) {
    int keys = min(KEYS, last + 1 - tile);
#pragma unroll
    for (int i = 0; i < KEYS; i += WARPS) {
      int j = i + threadIdx.x / WARP;
      if (j >= keys) break;
      const float *key = pages + slot_of(table, tile + j, page_size) * size;
#pragma unroll
      for (int c = 0; c < CHUNKS; ++c) {
        int d = lane_id() + WARP * c;
        if (d < size) held[j][d] = key[d];
      }
    }
    __syncthreads();  // the tile is complete
    u32 seen = __ballot_sync(ALL, lane_id() < keys);
    float score = scores_of(me, &held[0][0], size, CHUNKS * WARP, lane_id(), seen, scale);
    float weight = weights_of(me, score);
    mix_in(me, &held[0][0], value_size, CHUNKS * WARP, lane_id(), seen, weight);
    __syncthreads();  // and read by all
  }
  if (active) finish(me, out + query * value_size, value_size, bf16);
}
