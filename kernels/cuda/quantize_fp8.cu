// uses: prims.cuh ieee.cuh fp4.cuh
// Quantise to FP8: E4M3 values with a float32 scale for each region of a matrix, and back.
//
// A region is a matrix, a row, 128 x 128 values or 128 of a row (tinymoe/formats/fp8.py). A block of
// threads takes one: its warps go over the rows, find the largest magnitude (shuffles within a warp,
// shared memory between warps, one barrier), and go over the rows again to round. One region for all
// of a large matrix keeps one block busy and the GPU idle: weights are quantised once, offline, and
// activations by rows or groups, of which there are many.
//
// Each convention is a rule for the scale and one for the value that E4M3 rounds. A region of zeros
// has scale 0 and NaN codes where its library has no floor; the definition refuses it.

#define SCALE_PLAIN 0         // amax / 448
#define SCALE_ROUNDED 1       // rounded to the tensor's dtype
#define SCALE_OR_EPSILON 2    // the same, zero becomes the dtype's epsilon
#define SCALE_1E_4 3          // max(amax, 1e-4) / 448
#define SCALE_FLOOR 4         // max(amax / 448, 1 / (448 * 512))
#define SCALE_1E_10 5         // max(amax, 1e-10) * (1 / 448)
#define SCALE_INVERTED 6      // 1 / ((1 / amax) * 448), zero: 1
#define SCALE_FAKE 7          // 1 / (448 / amax), to 2^-24: 1

#define VALUE_QUOTIENT 0      // w / s
#define VALUE_ROUNDED 1       // rounded to the tensor's dtype
#define VALUE_TIMES 2         // w * (1 / s)
#define VALUE_BY_AMAX 3       // w times what SCALE_INVERTED or SCALE_FAKE inverts

// What the last two rules multiply values by.
__device__ __forceinline__ float factor_of(int rule, float amax) {
  if (rule == SCALE_INVERTED) return is_zero(amax) ? 1 : mul_rn(div_rn(1, amax), 448);
  return amax <= 5.9604645e-8f ? 1 : div_rn(448, amax);  // 2^-24
}

__device__ __forceinline__ float scale_of(int rule, float amax, int from_bf16) {
  switch (rule) {
    case SCALE_PLAIN: return div_rn(amax, 448);
    case SCALE_ROUNDED: return stored(div_rn(amax, 448), from_bf16);
    case SCALE_OR_EPSILON: {
      float s = stored(div_rn(amax, 448), from_bf16);
      return is_zero(s) ? (from_bf16 ? 0.0078125f : 1.1920929e-7f) : s;
    }
    case SCALE_1E_4: return div_rn(larger(amax, 1e-4f), 448);
    case SCALE_FLOOR: return larger(div_rn(amax, 448), 1.0f / (448 * 512));
    case SCALE_1E_10: return mul_rn(larger(amax, 1e-10f), 1.0f / 448);
    default: return div_rn(1, factor_of(rule, amax));
  }
}

// 1: up to a power of two by the bits, as DeepGEMM does; 2: by log2, as DeepSeek does. They part
// just above a power of two, where log2 in float32 is a whole number too soon.
__device__ __forceinline__ float power_above(float s, int how) {
  if (how == 2) return __int_as_float(((int)ceilf(log2_of(s)) + 127) << 23);
  int byte = (__float_as_int(s) + 0x7fffff) >> 23;
  return __int_as_float(min(max(byte, 1), 254) << 23);
}

template <int SCALE, int VALUE>
__device__ __forceinline__ u32 code_of(float w, float s, float factor, int from_bf16) {
  float y = VALUE == VALUE_TIMES     ? mul_rn(w, div_rn(1, s))
            : VALUE == VALUE_BY_AMAX ? mul_rn(w, factor)
                                     : div_rn(w, s);
  if (VALUE == VALUE_ROUNDED) y = stored(y, from_bf16);
  return e4m3_from_f32(magnitude(y)) | sign_bit(y) << 7;
}

// The largest magnitude of a region, for all threads of the block.
__device__ __forceinline__ float largest_in(const float* w, int rows, int columns, int stride) {
  __shared__ float of_warp[WARP];
  int warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  float amax = 0;
#pragma unroll 1
  for (int r = warp; r < rows; r += warps) {
#pragma unroll 1
    for (int c = lane_id(); c < columns; c += WARP) {
      amax = larger(amax, magnitude(w[(i64)r * stride + c]));
    }
  }
#pragma unroll
  for (int o = WARP / 2; o > 0; o >>= 1) amax = larger(amax, __shfl_xor_sync(ALL, amax, o));
  if (lane_id() == 0) of_warp[warp] = amax;
  __syncthreads();  // every warp has written its own
#pragma unroll 1
  for (int i = 0; i < warps; i++) amax = larger(amax, of_warp[i]);
  return amax;
}

// w (N, K) float32 -> codes (N, K), scales (N / rows, K / columns), rounded up. Grid: (rows of
// scales, scales of a row), as y ends at 65,535 and tokens do not; whole warps to a block. `power`:
// see power_above; 0 leaves the scale.
template <int SCALE, int VALUE>
__device__ __forceinline__ void quantize(u8* codes, float* scales, const float* w, int N, int K,
                                         int rows, int columns, int from_bf16, int power) {
  int row = blockIdx.x * rows, column = blockIdx.y * columns;
  i64 first = (i64)row * K + column;
  rows = min(rows, N - row);
  columns = min(columns, K - column);
  float amax = largest_in(w + first, rows, columns, K), factor = 0;
  float s = scale_of(SCALE, amax, from_bf16);
  if (VALUE == VALUE_BY_AMAX) factor = factor_of(SCALE, amax);
  if ((VALUE == VALUE_QUOTIENT || VALUE == VALUE_TIMES) && power) s = power_above(s, power);
#pragma unroll 1
  for (int r = threadIdx.x / WARP; r < rows; r += blockDim.x / WARP) {
#pragma unroll 1
    for (int c = lane_id(); c < columns; c += WARP) {
      i64 at = first + (i64)r * K + c;
      codes[at] = code_of<SCALE, VALUE>(w[at], s, factor, from_bf16);
    }
  }
  if (threadIdx.x == 0) scales[(i64)blockIdx.x * gridDim.y + blockIdx.y] = s;
}

#define CONVENTION(NAME, ...)                                                                   \
  extern "C" __global__ void quantize_fp8_##NAME(u8* codes, float* scales, const float* w,      \
                                                 int N, int K, int rows, int columns,           \
                                                 int from_bf16, int power) {                    \
    quantize<__VA_ARGS__>(codes, scales, w, N, K, rows, columns, from_bf16, power);             \
  }

CONVENTION(modelopt_tensor, SCALE_PLAIN, VALUE_ROUNDED)
CONVENTION(modelopt_channel, SCALE_PLAIN, VALUE_QUOTIENT)
CONVENTION(modelopt_block, SCALE_PLAIN, VALUE_QUOTIENT)
CONVENTION(modelopt_qtensor, SCALE_ROUNDED, VALUE_ROUNDED)
CONVENTION(modelopt_fake, SCALE_FAKE, VALUE_BY_AMAX)
CONVENTION(ct, SCALE_OR_EPSILON, VALUE_ROUNDED)
CONVENTION(deepseek_act, SCALE_1E_4, VALUE_QUOTIENT)
CONVENTION(deepgemm, SCALE_1E_4, VALUE_TIMES)
CONVENTION(transformers, SCALE_INVERTED, VALUE_BY_AMAX)
CONVENTION(vllm_group, SCALE_FLOOR, VALUE_QUOTIENT)
CONVENTION(vllm_token, SCALE_FLOOR, VALUE_TIMES)
CONVENTION(vllm_triton_group, SCALE_1E_10, VALUE_QUOTIENT)
CONVENTION(div32, SCALE_PLAIN, VALUE_QUOTIENT)

// codes (N, K), scales for each `rows` and `columns` -> out (N, K) float32: a thread a value, of at
// most 2^31.
extern "C" __global__ void decode_fp8(float* out, const u8* codes, const float* scales, int values,
                                      int K, int rows, int columns) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= values) return;
  int n = i / K, k = i % K, across = (K + columns - 1) / columns;
  out[i] = mul_rn(e4m3_to_f32(codes[i]), scales[(i64)(n / rows) * across + k / columns]);
}
