// uses: prims.cuh ieee.cuh fp4.cuh
// NVFP4 and MXFP4 back to numbers: code times block scale, times the tensor's scale if it has one.
//
// A thread takes four bytes of codes, eight values, and writes them as two vectors of four: reads
// and writes of neighbouring threads lie next to each other. E2M1 times E4M3 is exact in float32;
// the tensor scale is what rounds, and libraries apply it in different places.

//
//   v * (s * g)               ModelOpt, torchao; kernels, with g the reciprocal of their divisor
//   v * (s / g)               compressed-tensors
//   v * ((s * g) * (1/2688))  TransformerEngine, whose g is the tensor's largest value

__device__ __forceinline__ void put_eight(float* out, i64 word, const float (&v)[8]) {
  ((float4*)out)[2 * word] = make_float4(v[0], v[1], v[2], v[3]);
  ((float4*)out)[2 * word + 1] = make_float4(v[4], v[5], v[6], v[7]);
}

// codes (rows, K/2), scales (rows, K/16) -> out (rows, K) float32; `words` = rows * K/8. The step
// is s * g or s / g, times `after`, which is 1 where there is nothing after.
extern "C" __global__ void decode_nvfp4(float* out, const u32* codes, const u8* scales, i64 words,
                                        float g, int divides, float after) {
  i64 word = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (word >= words) return;
  u32 eight = codes[word];
  float s = e4m3_to_f32(scales[word / 2]), v[8];
  float step = mul_rn(divides ? div_rn(s, g) : mul_rn(s, g), after);
#pragma unroll
  for (int p = 0; p < 4; p++) {
    float2 two = e2m1_to_f32(eight, p);
    v[p] = mul_rn(two.x, step), v[p + 4] = mul_rn(two.y, step);
  }
  put_eight(out, word, v);
}

// codes (rows, K/2), scales (rows, K/32) -> out (rows, K) float32.
extern "C" __global__ void decode_mxfp4(float* out, const u32* codes, const u8* scales, i64 words,
                                        int reading) {
  i64 word = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (word >= words) return;
  u32 eight = codes[word];
  float scale = Mxfp4::scale(scales[word / 4], reading), v[8];
#pragma unroll
  for (int p = 0; p < 4; p++) {
    float2 two = Mxfp4::values(eight, p, scale);
    v[p] = two.x, v[p + 4] = two.y;
  }
  put_eight(out, word, v);
}
