// uses: pages.cuh
//
// New keys and values into the paged cache. What they must equal: `slots_of` and `write_pages` of
// tinymoe/model/attention.py. Nobody has run them on a GPU yet.

// slots (rows,): where position positions[r] of sequence r lives; tables (rows, width).
extern "C" __global__ void slots_of(i64 *slots, const i64 *positions, const i64 *tables, int rows,
                                    int width, int page_size) {
  int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row < rows) slots[row] = slot_of(tables + (i64)row * width, (int)positions[row], page_size);
}

// pages (pages, P, row): rows slots[t] become values (tokens, row). No two tokens share a slot.
extern "C" __global__ void write_pages(float *pages, const i64 *slots, const float *values,
                                       int tokens, int row) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= tokens * row) return;
  pages[slots[i / row] * row + i % row] = values[i];
}
