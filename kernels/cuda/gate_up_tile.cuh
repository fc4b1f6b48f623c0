// uses: prims.cuh ieee.cuh fp4.cuh block16.cuh warp_tile.cuh grouped_tile.cuh swiglu.cuh
// The first half of the experts' network without a detour through memory: gate and up products,
// silu(gate) * up, and its quantisation for the down product, all in one warp's registers.
//
// The weight (2I, H) has the gate's I rows first. A warp takes 16 columns of the gate and the same
// 16 of up, so that both halves of a hidden value meet in one lane. Those 16 columns are one block
// of NVFP4. Of a row's block, lane t of a group holds columns 2t, 2t+1, 8+2t and 8+2t+1 (that is how
// an mma leaves its sums): two whole bytes of codes, and two shuffles among four lanes give the
// block's largest value. So 9 bytes for 16 values go to memory, where float32 takes 64.

// Column i = 0 .. 3 of a lane, of 16 from `first`, in row half `half`.
__device__ __forceinline__ float hidden_at(const Sums& d, int i, int half, float alpha,
                                           int to_bf16) {
  // rounded to storage as if they went to memory: that is what the definition says they are
  float gate = stored(alpha * d[i / 2][2 * half + i % 2], to_bf16);
  float up = stored(alpha * d[2 + i / 2][2 * half + i % 2], to_bf16);
  return stored(swiglu(gate, up, 0, 0, 0), to_bf16);
}

// x (S, H) as codes and scales in expert order -> codes (S, I/2), scales (S, I/16) of the hidden
// values. hidden_scales (E,): S of their quantiser, a divisor.
template <class Math>
__device__ __forceinline__ void gate_up_tile(u8* codes, u8* scales, Rows x, const u8* w_codes,
                                             const u8* w_scales, const float* alphas,
                                             const float* hidden_scales, const int* tiles, int I,
                                             int to_bf16) {
  Group group = group_of(tiles, blockIdx.y);
  int column = (blockIdx.x * WARPS + WARP_ID) * 16;
  if (group.expert < 0 || column >= I) return;  // whole warps
  x.end = group.end;
  Sums d = {};
  Math::product(d, x, group.row, weight_of<Nvfp4>(w_codes, w_scales, group.expert, 2 * I, x.K),
                column, I + column, READ_NAN);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float h[4], amax = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      h[i] = hidden_at(d, i, half, alphas[group.expert], to_bf16);
      amax = larger(amax, magnitude(h[i]));
    }
    Scaled s = kernel_steps(quad_max(amax), hidden_scales[group.expert]);
    Rule rule = {TIES_EVEN, SIGN_KEPT, 7};
    int row = group.row + GROUP + 8 * half;
    i64 block = (i64)row * (I / 16) + column / 16;
    if (row < group.end) {
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        u32 low = code_of(h[i], s, rule), high = code_of(h[i + 1], s, rule);
        codes[8 * block + MEMBER + 2 * i] = low | high << 4;
      }
      if (MEMBER == 0) scales[block] = s.byte;
    }
  }
}
