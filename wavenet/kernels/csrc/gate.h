/* tanh(a) sigmoid(b) and its gradient, and the condition between two frames. */
#pragma once
#include "vec.h"

#define LOG2E 1.44269504f

/* With p = e^-2a and q = e^-b: tanh(a) sigmoid(b) = (1 - p) / ((1 + p)(1 + q)), one division for both. Below -9 tanh is
   -1 in a float; without the clamp p overflows, and infinity over infinity is not a number. */
INLINE vec gate(vec a, vec b, int coarse) {
    a = max_(splat(-9.0f), a) * splat(-2 * LOG2E);
    b = b * splat(-LOG2E);
    vec one = splat(1.0f);
    vec p = coarse ? exp2_coarse(a) : exp2_(a), q = coarse ? exp2_coarse(b) : exp2_(b);
    return (one - p) / ((one + p) * (one + q));
}

typedef struct {
    vec tanh, sigmoid;
} gate_parts;

INLINE gate_parts gate_split(vec a, vec b) {
    vec one = splat(1.0f);
    vec p = exp2_(max_(splat(-9.0f), a) * splat(-2 * LOG2E)), q = exp2_(b * splat(-LOG2E));
    return (gate_parts){(one - p) / (one + p), one / (one + q)};
}

/* Frames (L, width) at frame rate, as `interpolate_frames` reads them; L = 1 is constant in time. */
typedef struct {
    const float *frames;
    long count, width, hop;
} condition;

/* Sample t lies in segment (t + shift) / hop, between the centres of the frames `segment - 1` and `segment`. */
INLINE long segment_of(const condition *c, long t) { return (t + (c->hop + 1) / 2) / c->hop; }

INLINE const float *frame(const condition *c, long l) {
    l = l < 0 ? 0 : l >= c->count ? c->count - 1 : l;
    return c->frames + l * c->width;
}

INLINE float weight_of(const condition *c, long t) {
    return ((t + (c->hop + 1) / 2) % c->hop + (c->hop % 2 ? 0.0f : 0.5f)) / c->hop;
}

/* Channels first..first + n of the condition of the samples t..t + rows, into y (rows, n). */
INLINE void interpolate(const condition *c, long first, long n, long t, long rows, float *y) {
    long s = segment_of(c, t), phase = t + (c->hop + 1) / 2 - s * c->hop;
    for (long r = 0; r < rows; s++, phase = 0) {
        const float *left = frame(c, s - 1) + first, *right = frame(c, s) + first;
        for (; r < rows && phase < c->hop; r++, phase++) {
            vec w = splat((phase + (c->hop % 2 ? 0.0f : 0.5f)) / c->hop);
            for (long i = 0; i < n; i += LANES) {
                vec l = load(left + i);
                store(y + r * n + i, fma_(load(right + i) - l, w, l));
            }
        }
    }
}
