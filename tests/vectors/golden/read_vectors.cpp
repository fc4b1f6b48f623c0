// Read a golden vector in C++ without any library, and hold a function of yours to it.
//   c++ -std=c++17 read_vectors.cpp -o read_vectors && ./read_vectors experts/combine.safetensors
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

struct Array {
    std::string dtype;           // F32, F64, I64 or U8
    std::vector<size_t> shape;
    std::vector<double> values;  // row-major, widened
};

// The numbers between [ and ] that follow `key` in the header, from `at` on.
std::vector<size_t> numbers(const std::string& text, size_t at, const char* key) {
    std::vector<size_t> found;
    const char* p = text.c_str() + text.find('[', text.find(key, at)) + 1;
    while (*p != ']') {
        char* end;
        found.push_back(std::strtoull(p, &end, 10));
        p = *end == ',' ? end + 1 : end;
    }
    return found;
}

// One array of a file: 8 bytes of length, a JSON header, the data.
Array read(const std::string& file, const std::string& name) {
    uint64_t length;
    std::memcpy(&length, file.data(), 8);
    const std::string header = file.substr(8, length);
    const size_t at = header.find("\"" + name + "\":{");
    if (at == std::string::npos) { std::fprintf(stderr, "no %s\n", name.c_str()); std::exit(2); }
    Array a;
    const size_t type = header.find("\"dtype\":\"", at) + 9;
    a.dtype = header.substr(type, header.find('"', type) - type);
    a.shape = numbers(header, at, "\"shape\"");
    const auto span = numbers(header, at, "\"data_offsets\"");
    const size_t width = a.dtype == "U8" ? 1 : a.dtype == "F32" ? 4 : 8;
    for (size_t i = span[0]; i < span[1]; i += width) {
        const char* p = file.data() + 8 + length + i;
        float f; double d; int64_t n;
        if (a.dtype == "F32") { std::memcpy(&f, p, 4); d = f; }
        else if (a.dtype == "F64") std::memcpy(&d, p, 8);
        else if (a.dtype == "I64") { std::memcpy(&n, p, 8); d = static_cast<double>(n); }
        else d = static_cast<unsigned char>(*p);
        a.values.push_back(d);
    }
    return a;
}

int main(int argc, char** argv) {
    if (argc != 2) { std::fprintf(stderr, "which file? experts/combine.safetensors\n"); return 2; }
    std::ifstream stream(argv[1], std::ios::binary);
    const std::string file((std::istreambuf_iterator<char>(stream)), {});
    if (file.size() < 8) { std::fprintf(stderr, "cannot read %s\n", argv[1]); return 2; }
    const Array out = read(file, "expert_out"), weights = read(file, "weights");
    const Array want = read(file, "expected.out");
    const size_t T = out.shape[0], K = out.shape[1], H = out.shape[2];
    for (size_t t = 0; t < T; ++t)
        for (size_t h = 0; h < H; ++h) {
            float sum = 0;  // the function under test
            for (size_t k = 0; k < K; ++k)
                sum += float(weights.values[t * K + k]) * float(out.values[(t * K + k) * H + h]);
            if (sum != want.values[t * H + h]) {  // the card's tolerance is 0
                std::printf("out[%zu, %zu]: got %g, expected %g\n", t, h, sum, want.values[t * H + h]);
                return 1;
            }
        }
    std::printf("experts/combine holds: %zu x %zu numbers\n", T, H);
}
