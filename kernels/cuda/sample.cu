// uses: prims.cuh
//
// The next token from what the sampler's masks left over, with a random number that is a function
// of (seed, step) alone. What it must equal: tinymoe/random_draw.py and kernels/gumbel.py.
// Nobody has run it on a GPU yet.
//
// Two ways to the same distribution. `draw` walks the cumulative sum, as the definition does, and
// gives its token exactly. `gumbel` needs no sum: it adds noise to each logit and takes the
// largest, in parallel (Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030); other noise, so other
// tokens, just as probable.

struct Words {
  u32 a, b, c, d;
};

// Philox4x32-10 (Salmon et al. 2011): a counter and a key to four random words. There is no state
// that a thread would have to hand on, so token i of step n has its noise in any order.
__device__ __forceinline__ Words philox(Words now, u64 seed) {
  u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    u64 first = (u64)0xd2511f53u * now.a, second = (u64)0xcd9e8d57u * now.c;
    now = {(u32)(second >> 32) ^ now.b ^ k0, (u32)second, (u32)(first >> 32) ^ now.d ^ k1,
           (u32)first};
    k0 += 0x9e3779b9u, k1 += 0xbb67ae85u;
  }
  return now;
}

// tokens (rows,) from probabilities (rows, vocabulary): the first id whose cumulative probability
// is above u times the total. One thread a row, as the sum must run in id order to have the
// definition's bits. u is a multiple of 2^-53: 32 bits of a word and 21 of the next.
extern "C" __global__ void draw(i64 *tokens, const double *probabilities, const u64 *seeds,
                                const u64 *steps, int rows, int vocabulary) {
  int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const double *p = probabilities + (i64)row * vocabulary;
  u64 step = steps[row];
  Words random = philox({(u32)step, (u32)(step >> 32), 0, 0}, seeds[row]);
  u64 bits = ((u64)random.a << 21) | (random.b >> 11);
  double u = (double)bits * 0x1p-53, total = 0.0;
  for (int i = 0; i < vocabulary; ++i) total += p[i];
  double wanted = u * total, sum = 0.0;
  int token = 0;
  for (int i = 0; i < vocabulary; ++i) {
    if (p[i] == 0.0) continue;  // an id that cannot be drawn is not, at u = 0 either
    token = i;
    sum += p[i];
    if (sum > wanted) break;
  }
  tokens[row] = token;
}

// Whether (score, id) comes before (other, token): the larger score, of equals the lower id.
__device__ __forceinline__ bool before(float score, int id, float other, int token) {
  return score > other || (score == other && id < token);
}

// tokens (rows,): the id of the largest logit + noise; logits (rows, vocabulary), divided by the
// temperature, masked ones -inf. noise = -log(-log u), u an odd multiple of 2^-24 in (0, 1), made
// of the word that counter (step, id, 1) gives. A row with NaN or +inf, or with no finite logit,
// gives -1: a token drawn from it would hide a broken kernel. One block a row.
extern "C" __global__ void gumbel(i64 *tokens, const float *logits, const u64 *seeds,
                                  const u64 *steps, int vocabulary) {
  __shared__ float scores[32];
  __shared__ int ids[32];
  int row = blockIdx.x;
  u64 step = steps[row], seed = seeds[row];
  float best = -INF;
  int token = vocabulary;
  for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) {
    Words random = philox({(u32)step, (u32)(step >> 32), (u32)i, 1}, seed);
    float u = (float)(2 * (random.a >> 9) + 1) * 0x1p-24f;
    float score = logits[(i64)row * vocabulary + i] - logf(-logf(u));
    if (score != score) score = INF;
    if (before(score, i, best, token)) best = score, token = i;
  }
#pragma unroll
  for (int o = WARP / 2; o > 0; o >>= 1) {
    float score = __shfl_down_sync(ALL, best, o);
    int id = __shfl_down_sync(ALL, token, o);
    if (before(score, id, best, token)) best = score, token = id;
  }
  if (lane_id() == 0) scores[threadIdx.x / WARP] = best, ids[threadIdx.x / WARP] = token;
  __syncthreads();
  if (threadIdx.x) return;
#pragma unroll 1
  for (int w = 1; w < blockDim.x / WARP; ++w)
    if (before(scores[w], ids[w], best, token)) best = scores[w], token = ids[w];
  tokens[row] = fabsf(best) < INF ? token : -1;
}
