// uses: prims.cuh ieee.cuh fp4.cuh
// NVFP4 and MXFP4 back to numbers: code times block scale, times the tensor's scale if it has one.
//
// A thread writes four values, 16 bytes, next to those of its neighbours. Two threads share a word
// of eight codes: the first takes codes 0 .. 3 of it, the second 4 .. 7, which decode together
// (fp4.cuh). E2M1 times E4M3 is exact in float32; the tensor scale is what rounds, and libraries
// apply it in different places.
//
//   v * (s * g)               ModelOpt, torchao; kernels, with g the reciprocal of their divisor
//   v * (s / g)               compressed-tensors
//   v * ((s * g) * (1/2688))  TransformerEngine, whose g is the tensor's largest value

// codes (rows, K/2), scales (rows, K/16) -> out (rows, K) float32; `fours` = rows * K/4. The step
// is s * g or s / g, times `after`, which is 1 where there is nothing after.
extern "C" __global__ void decode_nvfp4(float4* out, const u32* codes, const u8* scales, i64 fours,
                                        float g, int divides, float after) {
  i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= fours) return;
  u32 eight = codes[i / 2];
  float s = e4m3_to_f32(scales[i / 4]), v[4];
  float step = mul_rn(divides ? div_rn(s, g) : mul_rn(s, g), after);
#pragma unroll
  for (int p = 0; p < 4; p++) {
    float2 two = e2m1_to_f32(eight, p);
    v[p] = mul_rn(i % 2 ? two.y : two.x, step);
  }
  out[i] = make_float4(v[0], v[1], v[2], v[3]);
}

// codes (rows, K/2), scales (rows, K/32) -> out (rows, K) float32.
extern "C" __global__ void decode_mxfp4(float4* out, const u32* codes, const u8* scales, i64 fours,
                                        int reading) {
  i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= fours) return;
  u32 eight = codes[i / 2];
  float scale = Mxfp4::scale(scales[i / 8], reading), v[4];
#pragma unroll
  for (int p = 0; p < 4; p++) {
    float2 two = Mxfp4::values(eight, p, scale);
    v[p] = i % 2 ? two.y : two.x;
  }
  out[i] = make_float4(v[0], v[1], v[2], v[3]);
}
