/* As many floats at a time as a register holds: sixteen with AVX-512, eight with AVX, four elsewhere.

   `bf16` is the upper half of a float; conversions round to nearest even. */
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define AVX512 1
#endif

#if AVX512 || defined(EMULATE_AMX) /* a row of a matrix tile is a vector */
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bf16;

INLINE float bf16_to_float(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

INLINE bf16 to_bf16(float x) { /* to nearest even; what is no number stays none */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return x != x ? 0x7fc0 : (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

typedef int32_t bits __attribute__((vector_size(4 * LANES)));

#if AVX512
#include <immintrin.h>

typedef __m512 vec;

INLINE vec splat(float x) { return _mm512_set1_ps(x); }
INLINE vec load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, vec x) { _mm512_storeu_ps(p, x); }
INLINE vec fma_(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); } /* a b + c */
INLINE vec max_(vec a, vec b) { return _mm512_max_ps(a, b); }             /* b where either is NaN */
INLINE vec min_(vec a, vec b) { return _mm512_min_ps(a, b); }
INLINE vec round_(vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vec scale2(vec x, vec n) { return _mm512_scalef_ps(x, n); } /* x 2^n, n whole; saturates to 0 and infinity */
INLINE float sum_(vec x) { return _mm512_reduce_add_ps(x); }

INLINE vec load_bf16(const bf16 *p) {
    __m256i half = _mm256_loadu_si256((const __m256i *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE void store_bf16(bf16 *p, vec x) {
#ifdef __AVX512BF16__
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(x));
#else
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    bits = _mm512_mask_mov_epi32(bits, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc00000));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
#endif
}

#else
#include <math.h>

typedef float vec __attribute__((vector_size(4 * LANES)));

INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec load(const float *p) {
    vec x;
    memcpy(&x, p, sizeof x);
    return x;
}
INLINE void store(float *p, vec x) { memcpy(p, &x, sizeof x); }
INLINE vec fma_(vec a, vec b, vec c) { return a * b + c; }
INLINE vec max_(vec a, vec b) {
    bits m = a > b;
    return (vec)(((bits)a & m) | ((bits)b & ~m));
}
INLINE vec min_(vec a, vec b) {
    bits m = a < b;
    return (vec)(((bits)a & m) | ((bits)b & ~m));
}
INLINE vec round_(vec x) {
    for (int i = 0; i < LANES; i++)
        x[i] = rintf(x[i]);
    return x;
}
INLINE vec scale2(vec x, vec n) { /* in two halves, so that the bits of neither leave the exponent */
    n = min_(max_(n, splat(-250)), splat(250));
    bits whole = __builtin_convertvector(n, bits), half = whole >> 1;
    return x * (vec)((half + 127) << 23) * (vec)((whole - half + 127) << 23);
}
INLINE float sum_(vec x) {
    float total = 0;
    for (int i = 0; i < LANES; i++)
        total += x[i];
    return total;
}
INLINE vec load_bf16(const bf16 *p) {
    bits x;
    for (int i = 0; i < LANES; i++)
        x[i] = (int32_t)((uint32_t)p[i] << 16);
    return (vec)x;
}
INLINE void store_bf16(bf16 *p, vec x) {
    for (int i = 0; i < LANES; i++)
        p[i] = to_bf16(x[i]);
}
#endif

/* A vector of numbers from the i-th on, of a buffer of bfloat16 (half) or floats. */
INLINE vec load_number(const void *p, long i, int half) {
    return half ? load_bf16((const bf16 *)p + i) : load((const float *)p + i);
}
INLINE void store_number(void *p, long i, vec x, int half) {
    if (half)
        store_bf16((bf16 *)p + i, x);
    else
        store((float *)p + i, x);
}

/* 2^x, to 8e-8 relative: 2^whole times the minimax polynomial of the fraction in [-1/2, 1/2]. */
INLINE vec exp2_(vec x) {
    vec whole = round_(x), f = x - whole;
    vec y = splat(1.327647129073739e-3f);
    y = fma_(y, f, splat(9.675540961325169e-3f));
    y = fma_(y, f, splat(5.550713092088699e-2f));
    y = fma_(y, f, splat(2.402212023735046e-1f));
    y = fma_(y, f, splat(6.931469440460205e-1f));
    y = fma_(y, f, splat(1.0f));
    return scale2(y, whole);
}

/* The same to 2e-4, and so that 2^f - 1 is right to 5e-4 however small f is: half a unit in the last place of a bfloat16
   is 2e-3. */
INLINE vec exp2_coarse(vec x) {
    vec whole = round_(x), f = x - whole;
    vec y = splat(5.55041069e-2f);
    y = fma_(y, f, splat(2.42028890e-1f));
    y = fma_(y, f, splat(6.93178271e-1f));
    y = fma_(y, f, splat(1.0f));
    return scale2(y, whole);
}

INLINE vec abs_(vec x) { return (vec)((bits)x & 0x7fffffff); }
INLINE vec copysign_(vec x, vec sign) { return (vec)((bits)abs_(x) | ((bits)sign & ~0x7fffffff)); }

/* 2^f - 1 for f in [-1/2, 1/2], to 1e-8 relative before rounding. */
INLINE vec exp2m1_fraction(vec f) {
    vec y = splat(1.5403512e-4f);
    y = fma_(y, f, splat(1.33907355e-3f));
    y = fma_(y, f, splat(9.61823749e-3f));
    y = fma_(y, f, splat(5.55035743e-2f));
    y = fma_(y, f, splat(2.40226498e-1f));
    y = fma_(y, f, splat(6.93147188e-1f));
    return y * f;
}

/* 2^x - 1, accurate to the last bits where x is small. */
INLINE vec exp2m1_(vec x) {
    vec whole = round_(x), power = scale2(splat(1.0f), whole);
    return fma_(exp2m1_fraction(x - whole), power, power - splat(1.0f));
}

/* e^x, to 1e-7 relative however large x is: log2(e) in two parts. */
INLINE vec exp_(vec x) {
    vec whole = round_(x * splat(1.44269502f));
    vec f = fma_(x, splat(1.92596299e-8f), fma_(x, splat(1.44269502f), -whole));
    return scale2(exp2m1_fraction(f) + splat(1.0f), whole);
}

/* ln x of a normal positive x, to 1e-7 relative; NaN where x is not positive. */
INLINE vec log_(vec x) {
    vec whole = __builtin_convertvector(((bits)(x * splat(1.41421356f)) >> 23) - 127, vec);
    vec f = scale2(x, -whole) - splat(1.0f), square = f * f; /* f in [sqrt(1/2) - 1, sqrt(2) - 1] */
    vec y = splat(8.70043453e-2f);
    y = fma_(y, f, splat(-1.42674868e-1f));
    y = fma_(y, f, splat(1.49147662e-1f));
    y = fma_(y, f, splat(-1.65775847e-1f));
    y = fma_(y, f, splat(1.99630638e-1f));
    y = fma_(y, f, splat(-2.50013370e-1f));
    y = fma_(y, f, splat(3.33339109e-1f));
    y = f + square * fma_(y, f, splat(-0.5f));
    y = fma_(whole, splat(6.93359375e-1f), fma_(whole, splat(-2.12194440e-4f), y));
    return (vec)((bits)y | ~(bits)(x > splat(0.0f)));
}
