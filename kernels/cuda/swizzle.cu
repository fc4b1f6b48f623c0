// uses: prims.cuh scales_at.cuh
// Block scales into the tiles that Blackwell's tensor memory wants, and back.
//
// A tile is 128 rows by 4 scales along K, 512 bytes. Inside, row m lies in line m % 32 of 16 bytes,
// as word m / 32 of its four; the word is the row's four scales. Tiles follow each other along K.
// What no scale falls on is zero. (On disk scales are plain rows: this happens at load.)

// scales (rows, columns) -> flat words, a thread a word: it asks where its word comes from, so
// that all of the output is written once, padding too.
extern "C" __global__ void swizzle_scales(u32* flat, const u8* scales, int rows, int columns,
                                          int words) {
  int word = blockIdx.x * blockDim.x + threadIdx.x;
  if (word >= words) return;
  int across = (columns + 3) / 4;  // tiles along K
  int tile = word / 128, line = word % 128 / 4;
  int m = tile / across * 128 + word % 4 * 32 + line, k = tile % across * 4;
  flat[word] = m < rows ? scales_at<4>(scales + (i64)m * columns, k, columns) : 0;
}

// flat -> scales (rows, columns), a thread a byte; what lies in the padding is not read.
extern "C" __global__ void unswizzle_scales(u8* scales, const u8* flat, int rows, int columns) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows * columns) return;
  int m = i / columns, k = i % columns, across = (columns + 3) / 4;
  int tile = m / 128 * across + k / 4;
  scales[i] = flat[tile * 512 + m % 32 * 16 + m % 128 / 32 * 4 + k % 4];
}
