"""Random expressions that mean the same in CUDA C and in C, for both compilers to translate.

Every operation is a function of one prelude with two bodies: the GPU's own function, and C that
spells out what it does (flushing of subnormals, clamped conversions, shifts by any count). Left out
is what C leaves open: signed overflow, division by zero, the order of -0 and +0.
"""

from __future__ import annotations

import random

TYPES = {
    **{"u32": "unsigned", "s32": "int", "u64": "unsigned long long", "s64": "long long"},
    **{"f32": "float", "f64": "double"},
}
# a product with 1 keeps the compiler from folding max(x, x) into an x that is not flushed
DEVICE = r"""
#define FN __device__ __forceinline__
FN float fadd(float a, float b) { return __fadd_rn(a, b); }
FN float fsub(float a, float b) { return __fsub_rn(a, b); }
FN float fmul(float a, float b) { return __fmul_rn(a, b); }
FN float fdiv(float a, float b) { return __fdiv_rn(a, b); }
FN float froot(float a) { return __fsqrt_rn(a); }
FN float ffma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
FN float flow(float a, float b) { return __fmul_rn(fminf(a, b), 1.0f); }
FN float fhigh(float a, float b) { return __fmul_rn(fmaxf(a, b), 1.0f); }
FN double wadd(double a, double b) { return __dadd_rn(a, b); }
FN double wsub(double a, double b) { return __dsub_rn(a, b); }
FN double wmul(double a, double b) { return __dmul_rn(a, b); }
FN double wdiv(double a, double b) { return __ddiv_rn(a, b); }
FN double wroot(double a) { return __dsqrt_rn(a); }
FN double wfma(double a, double b, double c) { return __fma_rn(a, b, c); }
FN float fneg(float a) { return __fmul_rn(a, -1.0f); }
FN float fmag(float a) { return __fadd_rn(fabsf(a), 0.0f); }
FN int fless(float a, float b) { return a < b; }
FN int f2i(float a) { return __float2int_rz(a); }
FN unsigned f2u(float a) { return __float2uint_rn(a); }
FN long long d2l(double a) { return __double2ll_rd(a); }
FN float d2f(double a) { return __double2float_rn(a); }
FN double f2d(float a) { return (double)a; }
FN float i2f(int a) { return __int2float_rn(a); }
FN float l2f(long long a) { return __ll2float_rn(a); }
FN double k2d(unsigned long long a) { return __ull2double_rn(a); }
FN unsigned shl(unsigned a, unsigned n) { return n > 31 ? 0 : a << n; }
FN int sar(int a, unsigned n) { return a >> (n > 31 ? 31 : n); }
FN unsigned ones(unsigned a) { return __popc(a); }
FN unsigned zeros(unsigned a) { return __clz(a); }
FN unsigned zeros64(unsigned long long a) { return __clzll(a); }
FN unsigned backwards(unsigned a) { return __brev(a); }
FN unsigned uhigh(unsigned a, unsigned b) { return __umulhi(a, b); }
FN int shigh(int a, int b) { return __mulhi(a, b); }
FN unsigned long long khigh(unsigned long long a, unsigned long long b) { return __umul64hi(a, b); }
FN long long lhigh(long long a, long long b) { return __mul64hi(a, b); }
FN unsigned pick(unsigned a, unsigned b, unsigned s) { return __byte_perm(a, b, s & 0x7777); }
FN unsigned funnel(unsigned a, unsigned b, unsigned n) { return __funnelshift_l(a, b, n); }
FN unsigned funnel2(unsigned a, unsigned b, unsigned n) { return __funnelshift_rc(a, b, n); }
FN unsigned apart(int a, int b, unsigned c) { return __sad(a, b, c); }
FN int dot4(int a, int b, int c) { return __dp4a(a, b, c); }
FN unsigned bits(float a) { return a != a ? 0x7fffffff : __float_as_uint(a); }
"""
HOST = r"""
#include <math.h>
#include <string.h>
#include <limits.h>
#define FN static inline
FN float z(float a) { return fabsf(a) < 0x1p-126f ? copysignf(0, a) : a; }
FN float fadd(float a, float b) { return z(z(a) + z(b)); }
FN float fsub(float a, float b) { return z(z(a) - z(b)); }
FN float fmul(float a, float b) { return z(z(a) * z(b)); }
FN float fdiv(float a, float b) { return z(z(a) / z(b)); }
FN float froot(float a) { return sqrtf(z(a)); }
FN float ffma(float a, float b, float c) { return z(fmaf(z(a), z(b), z(c))); }
FN float flow(float a, float b) {
  a = z(a), b = z(b);
  return a == b ? (signbit(a) ? a : b) : fminf(a, b);
}
FN float fhigh(float a, float b) {
  a = z(a), b = z(b);
  return a == b ? (signbit(a) ? b : a) : fmaxf(a, b);
}
FN float fneg(float a) { return z(-a); }
FN float fmag(float a) { return z(fabsf(a)); }
FN int fless(float a, float b) { return z(a) < z(b); }
FN double wadd(double a, double b) { return a + b; }
FN double wsub(double a, double b) { return a - b; }
FN double wmul(double a, double b) { return a * b; }
FN double wdiv(double a, double b) { return a / b; }
FN double wroot(double a) { return sqrt(a); }
FN double wfma(double a, double b, double c) { return fma(a, b, c); }
FN int f2i(float a) {
  a = z(a);
  return a != a ? 0 : a >= 0x1p31f ? INT_MAX : a <= -0x1p31f ? INT_MIN : (int)a;
}
FN unsigned f2u(float a) {
  a = rintf(z(a));
  return a != a || a <= 0 ? 0 : a >= 0x1p32f ? UINT_MAX : (unsigned)a;
}
FN long long d2l(double a) {
  a = floor(a);
  return a >= 0x1p63 ? LLONG_MAX : a != a || a <= -0x1p63 ? LLONG_MIN : (long long)a;
}
FN float d2f(double a) { return z((float)a); }
FN double f2d(float a) { return z(a); }
FN float i2f(int a) { return a; }
FN float l2f(long long a) { return a; }
FN double k2d(unsigned long long a) { return a; }
FN unsigned shl(unsigned a, unsigned n) { return n > 31 ? 0 : a << n; }
FN int sar(int a, unsigned n) { return a >> (n > 31 ? 31 : n); }
FN unsigned ones(unsigned a) { return __builtin_popcount(a); }
FN unsigned zeros(unsigned a) { return a ? __builtin_clz(a) : 32; }
FN unsigned zeros64(unsigned long long a) { return a ? __builtin_clzll(a) : 64; }
FN unsigned backwards(unsigned a) {
  unsigned r = 0;
  for (int k = 0; k < 32; k++) r |= (a >> k & 1) << (31 - k);
  return r;
}
FN unsigned uhigh(unsigned a, unsigned b) { return (unsigned long long)a * b >> 32; }
FN int shigh(int a, int b) { return (long long)a * b >> 32; }
FN unsigned long long khigh(unsigned long long a, unsigned long long b) {
  return (unsigned __int128)a * b >> 64;
}
FN long long lhigh(long long a, long long b) { return (__int128)a * b >> 64; }
FN unsigned pick(unsigned a, unsigned b, unsigned s) {
  unsigned long long both = (unsigned long long)b << 32 | a;
  unsigned r = 0;
  for (int k = 0; k < 4; k++) r |= (unsigned)(both >> 8 * (s >> 4 * k & 7) & 255) << 8 * k;
  return r;
}
FN unsigned funnel(unsigned a, unsigned b, unsigned n) {
  return (((unsigned long long)b << 32 | a) << (n & 31)) >> 32;
}
FN unsigned funnel2(unsigned a, unsigned b, unsigned n) {
  return ((unsigned long long)b << 32 | a) >> (n > 32 ? 32 : n);
}
FN unsigned apart(int a, int b, unsigned c) {
  return c + (unsigned)(a < b ? (long long)b - a : (long long)a - b);
}
FN int dot4(int a, int b, int c) {
  unsigned r = c;
  for (int k = 0; k < 4; k++) r += (signed char)(a >> 8 * k) * (signed char)(b >> 8 * k);
  return r;
}
FN unsigned bits(float a) {
  unsigned r;
  memcpy(&r, &a, 4);
  return a != a ? 0x7fffffff : r;
}
"""
ARGUMENTS = {"u32": "ab", "u64": "c", "f32": "xy", "f64": "w"}
# {} is an expression of the type that follows it
OPERATIONS = {
    "u32": [
        *(("({0} + {1})", "u32 u32"), ("({0} - {1})", "u32 u32"), ("({0} * {1})", "u32 u32")),
        *(("({0} / ({1} | 1u))", "u32 u32"), ("({0} % ({1} | 1u))", "u32 u32")),
        *(("({0} & {1})", "u32 u32"), ("({0} ^ {1})", "u32 u32"), ("({0} | ~{1})", "u32 u32")),
        *(("shl({0}, {1} & 63)", "u32 u32"), ("({0} >> ({1} & 31))", "u32 u32")),
        *(("ones({0})", "u32"), ("zeros({0})", "u32"), ("backwards({0})", "u32")),
        *(("zeros64({0})", "u64"), ("uhigh({0}, {1})", "u32 u32"), ("bits({0})", "f32")),
        *(("pick({0}, {1}, {2})", "u32 u32 u32"), ("funnel({0}, {1}, {2})", "u32 u32 u32")),
        *(("funnel2({0}, {1}, {2} & 63)", "u32 u32 u32"), ("apart({0}, {1}, {2})", "s32 s32 u32")),
        *(("(unsigned){0}", "s32"), ("(unsigned){0}", "u64"), ("(unsigned char){0}", "u32")),
        *(("(unsigned short){0}", "u32"), ("f2u({0})", "f32"), ("fless({0}, {1})", "f32 f32")),
        *(("({0} <= {1} ? {2} : {3})", "s32 s32 u32 u32"), ("!{0}", "u32")),
        ("({0} >> 5 & 0x3ff)", "u32"),
    ],
    "s32": [
        *(("(int){0}", "u32"), ("(int){0}", "s64"), ("(signed char){0}", "u32")),
        *(("(short){0}", "u32"), ("sar({0}, {1} & 63)", "s32 u32"), ("f2i({0})", "f32")),
        *(("({0} / (int)({1} >> 1 | 1))", "s32 u32"), ("({0} % (int)({1} >> 1 | 1))", "s32 u32")),
        *(("shigh({0}, {1})", "s32 s32"), ("dot4({0}, {1}, {2})", "s32 s32 s32")),
        *(("({0} < {1} ? {0} : {1})", "s32 s32"), ("({0} != {1} ? {2} : {3})", "f64 f64 s32 s32")),
        ("(int)({0} << 7) >> 19", "u32"),
    ],
    "u64": [
        *(("({0} + {1})", "u64 u64"), ("({0} * {1})", "u64 u64"), ("({0} ^ {1} << 32)", "u64 u64")),
        *(("({0} / ({1} | 1))", "u64 u64"), ("({0} % ({1} | 1))", "u64 u64")),
        *(("khigh({0}, {1})", "u64 u64"), ("(unsigned long long){0} * {1}", "u32 u32")),
        *(("({0} >> ({1} & 63))", "u64 u32"), ("(unsigned long long){0}", "s64")),
        ("({0} > {1} ? {2} : {3})", "s64 s64 u64 u64"),
    ],
    "s64": [
        *(("(long long){0}", "u64"), ("(long long){0}", "s32"), ("(long long){0}", "u32")),
        *(("lhigh({0}, {1})", "s64 s64"), ("({0} >> ({1} & 63))", "s64 u32"), ("d2l({0})", "f64")),
        *(("({0} / (long long)({1} >> 1 | 1))", "s64 u64"), ("(long long){0} * {1}", "s32 s32")),
    ],
    "f32": [
        *((f"{name}({{0}}, {{1}})", "f32 f32") for name in ("fadd", "fsub", "fmul", "fdiv")),
        *(("flow({0}, {1})", "f32 f32"), ("fhigh({0}, {1})", "f32 f32"), ("froot({0})", "f32")),
        *(("ffma({0}, {1}, {2})", "f32 f32 f32"), ("d2f({0})", "f64"), ("i2f({0})", "s32")),
        *(
            ("l2f({0})", "s64"),
            ("(fless({0}, {1}) ? {2} : {3})", "f32 f32 f32 f32"),
            ("fneg({0})", "f32"),
        ),
        ("fmag({0})", "f32"),
    ],
    "f64": [
        *((f"{name}({{0}}, {{1}})", "f64 f64") for name in ("wadd", "wsub", "wmul", "wdiv")),
        *(("wfma({0}, {1}, {2})", "f64 f64 f64"), ("wroot({0})", "f64"), ("k2d({0})", "u64")),
        *(("f2d({0})", "f32"), ("({0} == {1} ? {2} : {3})", "u64 u64 f64 f64")),
    ],
}
CONSTANTS = {
    "u32": ["0u", "1u", "31u", "0x80000000u", "0xffffffffu", "0x1234567u"],
    "u64": ["0ull", "1ull", "0x8000000000000000ull", "0xfedcba9876543210ull"],
    "f32": ["0.0f", "1.0f", "-1.5f", "3.0e38f", "0.1f", "16777216.0f"],
    "f64": ["0.0", "1.0", "-0.3", "1.0e300", "9007199254740992.0"],
}


def expression(draw: random.Random, kind: str, depth: int) -> str:
    """One expression of type `kind`."""
    if depth == 0:
        if kind in ("s32", "s64"):
            return f"({TYPES[kind]}){expression(draw, 'u' + kind[1:], 0)}"
        leaves = [*ARGUMENTS[kind] * 2, draw.choice(CONSTANTS[kind])]
        return draw.choice(leaves)
    form, kinds = draw.choice(OPERATIONS[kind])
    return form.format(*(f"({expression(draw, k, depth - 1)})" for k in kinds.split()))


def function(draw: random.Random, kind: str) -> str:
    """A function's body: a branch and a loop of a few turns around expressions."""
    name = TYPES[kind]
    first, second, third = (expression(draw, kind, draw.choice([2, 3])) for _ in range(3))
    test = expression(draw, draw.choice(["u32", "s64", "f64"]), 1)
    return (
        f"{name} r = {first};\n  if (({test}) > 0) r = {second};\n"
        f"  for (unsigned k = 0; k < (b & 3); k++) {{ a = a * 5u + k; r = {third}; }}\n  return r;"
    )


def programs(seed: int, count: int) -> tuple[str, str, list[str]]:
    """`count` functions as CUDA C kernels and as C loops, and the type each returns."""
    draw = random.Random(seed)
    kinds = [draw.choice(list(TYPES)) for _ in range(count)]
    device, host = [DEVICE], [HOST]
    given = "unsigned a, unsigned b, unsigned long long c, float x, float y, double w"
    arrays = ", ".join(f"const {t.rsplit(' ', 1)[0]} *{t[-1]}s" for t in given.split(", "))
    passed = ", ".join(f"{n}s[i]" for n in "abcxyw")
    for k, kind in enumerate(kinds):
        body = f"FN {TYPES[kind]} body{k}({given}) {{\n  {function(draw, kind)}\n}}\n"
        device += [
            body,
            f'extern "C" __global__ void f{k}({TYPES[kind]} *out, {arrays}) {{\n'
            f"  int i = threadIdx.x;\n  out[i] = body{k}({passed});\n}}\n",
        ]
        host += [
            body,
            f"void f{k}({TYPES[kind]} *out, {arrays}, int n) {{\n"
            f"  for (int i = 0; i < n; i++) out[i] = body{k}({passed});\n}}\n",
        ]
    return "\n".join(device), "\n".join(host), kinds
