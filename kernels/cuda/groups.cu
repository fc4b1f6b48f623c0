// uses: grouping.cuh
//
// What selection goes by: score plus bias, with the members of weak groups masked. (tokens,
// experts) each. What it must equal: the first lines of `select`, and `drop_groups`, of
// tinymoe/model/router.py. Nobody has run it on a GPU yet.

// The bias chooses and never weighs (vllm#12002): the sum has an array of its own. One thread a
// number; `bias` (experts,).
extern "C" __global__ void add_bias(float *choice, const float *scores, const float *bias,
                                    int tokens, int experts) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < tokens * experts) choice[i] = scores[i] + bias[i % experts];
}

__device__ Top2 best_of(const float *x, int size) {
  Top2 best = {-INF, -INF};
  for (int e = 0; e < size; ++e) {
    Top2 one = {x[e], -INF};
    best = merged(best, one);
  }
  return best;
}

// First rung: one thread a group of a token. It rates its own group and every other one, so each
// number is read `groups` times; it asks how many are better, and copies or masks its members.
extern "C" __global__ void drop_groups_naive(float *out, const float *choice, int tokens,
                                             int experts, int groups, int kept, int top2,
                                             int to_zero) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= tokens * groups) return;
  int t = i / groups, own = i % groups, size = experts / groups;
  const float *x = choice + (i64)t * experts;
  u64 mine = place_of(order_of(rating_of(best_of(x + own * size, size), top2)), own);
  int better = 0;
  for (int g = 0; g < groups; ++g)
    better += place_of(order_of(rating_of(best_of(x + g * size, size), top2)), g) > mine;
  for (int e = own * size; e < (own + 1) * size; ++e)
    out[(i64)t * experts + e] = better < kept ? x[e] : dropped(x[e], to_zero);
}

// Second rung: one warp a token, the row in registers. J: a 32nd of the experts, rounded up.
template <int J>
__device__ __forceinline__ void drop_groups_warp(float *out, const float *choice, int tokens,
                                                 int experts, int groups, int kept, int top2,
                                                 int to_zero) {
  int t = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
  if (t >= tokens) return;
  float x[J];
  load_row(x, choice + (i64)t * experts, experts, -INF);
  drop_groups_of_row(x, experts, groups, kept, top2, to_zero);
  store_row(out + (i64)t * experts, x, experts);
}

#define DROP_GROUPS(J, MOST)                                                                      \
  extern "C" __global__ void drop_groups_##MOST(float *out, const float *choice, int tokens,      \
                                                int experts, int groups, int kept, int top2,      \
                                                int to_zero) {                                    \
    drop_groups_warp<J>(out, choice, tokens, experts, groups, kept, top2, to_zero);               \
  }
DROP_GROUPS(1, 32)
DROP_GROUPS(4, 128)
DROP_GROUPS(16, 512)
