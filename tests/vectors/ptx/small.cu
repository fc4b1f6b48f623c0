// Small kernels for the PTX machine. small.ptx is what NVRTC 12.9 makes of them with
// -arch=compute_80 -lineinfo --device-as-default-execution-space.
extern "C" __global__ void add(float *out, const float *a, const float *b, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a[i] + b[i];
}
extern "C" __global__ void add_past_the_end(float *out, const float *a, const float *b) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = a[i] + b[i];
}
extern "C" __global__ void block_sum(float *out, const float *x) {
    __shared__ float part[64];
    int t = threadIdx.x;
    part[t] = x[blockIdx.x * 64 + t];
    __syncthreads();
    for (int s = 32; s > 0; s >>= 1) {
        if (t < s) part[t] += part[t + s];
        __syncthreads();
    }
    if (t == 0) out[blockIdx.x] = part[0];
}
extern "C" __global__ void collatz(int *steps, const int *start) {
    int i = threadIdx.x, x = start[i], n = 0;
    while (x > 1) { x = (x & 1) ? 3 * x + 1 : x / 2; ++n; }
    steps[i] = n;
}
extern "C" __global__ void histogram(int *count, const int *x) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&count[x[i]], 1);
}
extern "C" __global__ void vector_load(float *out, const float *x, int shift) {
    float4 v = *(const float4 *)(x + shift + 4 * threadIdx.x);
    out[threadIdx.x] = v.x + v.y + v.z + v.w;
}
extern "C" __global__ void barrier_for_some(int *out) {
    if (threadIdx.x < 32) { out[threadIdx.x] = 1; __syncthreads(); }
    else { out[threadIdx.x] = 2; __syncthreads(); out[threadIdx.x] += 1; }
}
