// Tensor-core kernels for tests of the PTX machine. tensor_sm80.ptx is what
// `tinymoe.kernels.cuda.compile.build` makes of them for "80", with NVRTC 12.9.
typedef unsigned short u16;
typedef unsigned int u32;

__device__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

// D (16, 16) = A (16, K) @ B (K, 16) in f16, by two warps of eight columns each. K is cut into
// steps of 16, and while one is multiplied the next is on its way. Warp 0 brings A, warp 1 brings B.
extern "C" __global__ void pipelined(float *d, const u16 *a, const u16 *b, int K) {
  __shared__ __align__(16) u16 as[2][16][16], bs[2][16][16];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int row = lane / 2, half = lane % 2 * 8;
  float c[4] = {0, 0, 0, 0};
  for (int k = -16; k < K; k += 16) {
    int stage = k / 16 & 1;
    if (k + 16 < K) {
      const u16 *from = warp == 0 ? a + row * K + k + 16 + half : b + (k + 16 + row) * 16 + half;
      u32 to = shared_address(warp == 0 ? &as[1 - stage][row][half] : &bs[1 - stage][row][half]);
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    if (k < 0) continue;
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();  // the other warp's part is there, too
    u32 x[4], y[2];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(shared_address(&as[stage][lane % 16][lane / 16 * 8])));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(y[0]), "=r"(y[1])
                 : "r"(shared_address(&bs[stage][lane % 16][warp * 8])));
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
    __syncthreads();  // nobody refills what the other warp still reads
  }
  for (int i = 0; i < 4; i++)
    d[(lane / 4 + i / 2 * 8) * 16 + warp * 8 + lane % 4 * 2 + i % 2] = c[i];
}

// Bytes past `take` of each thread's 16 become zeros, and the source has none of them.
extern "C" __global__ void filled(u32 *out, const u32 *in, const int *take) {
  __shared__ __align__(16) u32 s[32][4];
  int lane = threadIdx.x;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(s[lane])),
               "l"(in + 4 * lane), "r"(take[lane])
               : "memory");
  asm volatile("cp.async.wait_all;" ::: "memory");
  for (int i = 0; i < 4; i++) out[4 * lane + i] = s[lane][i];
}

// An 8 x 8 tile, transposed in registers.
extern "C" __global__ void transposed(u32 *out, const u32 *in) {
  u32 t;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(t) : "r"(in[threadIdx.x]));
  out[threadIdx.x] = t;
}
