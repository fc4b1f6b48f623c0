// uses: prims.cuh ieee.cuh
//
// Rotary position embedding: pairs of dimensions of each head turned by an angle that grows with
// the position. What it must equal: tinymoe/model/rope.py. Nobody has run it on a GPU yet.
//
// x, out (tokens, heads, size); cosine, sine (rows, rotary/2), made in float64 by the host: an
// angle of 1,000 radians in float32 is already off by 3e-5. Token t takes row t; with `positions`
// (tokens,) it takes row positions[t] of a table of all positions, so that a captured graph can
// be replayed for the next token without a word from the host.
//
// The pairs are (j, j + rotary/2), or (2j, 2j + 1) if `interleaved`: one taken for the other
// gives fluent nonsense. Dimensions past `rotary` are copied.

// One thread a pair, or a dimension that does not turn.
extern "C" __global__ void rope(float *out, const float *x, const float *cosine, const float *sine,
                                const i64 *positions, int tokens, int heads, int size, int rotary,
                                int interleaved, int bf16) {
  int half = rotary / 2, work = half + size - rotary;  // of one head
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= tokens * heads * work) return;
  int j = i % work, token = i / work / heads;
  i64 head = (i64)(i / work) * size;  // where this head begins
  if (j >= half) {
    int still = rotary + j - half;
    out[head + still] = x[head + still];
    return;
  }
  i64 row = positions ? positions[token] : token;
  float c = cosine[row * half + j], s = sine[row * half + j];
  i64 first = head + (interleaved ? 2 * j : j), second = first + (interleaved ? 1 : half);
  float a = x[first], b = x[second];
  out[first] = stored(a * c - b * s, bf16);
  out[second] = stored(b * c + a * s, bf16);
}
