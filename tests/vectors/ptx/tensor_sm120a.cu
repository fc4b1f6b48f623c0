// Tensor-core kernels for tests of the PTX machine. tensor_sm120a.ptx is what
// `tinymoe.kernels.cuda.compile.build` makes of them for "120a", with NVRTC 12.9.
typedef unsigned int u32;

__device__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

// D (16, 8) = A (16, 64) @ B (8, 64)^T in NVFP4: codes [row][8 words], scales [row][4 bytes].
// No shared memory: each register is one aligned word of a row.
extern "C" __global__ void nvfp4_tile(float *d, const u32 *a, const u32 *sa, const u32 *b,
                                      const u32 *sb) {
  int g = threadIdx.x / 4, t = threadIdx.x % 4;
  float c[4] = {0, 0, 0, 0};
  asm volatile(
      "mma.sync.aligned.kind::mxf4nvf4.block_scale.scale_vec::4X.m16n8k64.row.col"
      ".f32.e2m1.e2m1.f32.ue4m3 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, "
      "{%10}, {0, 0}, {%11}, {0, 0};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[8 * g + t]), "r"(a[8 * (g + 8) + t]), "r"(a[8 * g + t + 4]),
        "r"(a[8 * (g + 8) + t + 4]), "r"(b[8 * g + t]), "r"(b[8 * g + t + 4]),
        "r"(sa[g + 8 * (t & 1)]), "r"(sb[g]));
  for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c[i];
}

// What ldmatrix spreads, stmatrix takes back: tiles of 8 rows of 16 bytes, both ways round.
extern "C" __global__ void stored(u32 *out, const u32 *in) {
  __shared__ __align__(16) u32 s[32][4], z[32][4];
  int lane = threadIdx.x;
  for (int i = 0; i < 4; i++) s[lane][i] = in[4 * lane + i];
  __syncthreads();
  u32 r[4];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(s[lane])));
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   shared_address(z[lane])),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
  __syncthreads();
  for (int i = 0; i < 4; i++) out[4 * lane + i] = z[lane][i];
}
