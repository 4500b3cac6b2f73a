/* The gated activation alone, over whole clips: one pass over memory forward, one backward, which computes tanh and
   sigmoid again from what went in. Letters as in `reference.gated_activation`. */
#include "units.h"

typedef struct {
    long batch, length, gate; /* gate: G, half the width of hidden */
    long frames, hop, offset; /* of the condition; the bias is added already */
    long half, threads;       /* half: hidden, output and their gradients are bfloat16 */
} activation;

enum { ROWS = 16 }; /* samples that share the loads of the two frames around them */

/* Sixteen channels of the frames around a unit, and of the line between them. */
typedef struct {
    vec left, slope;
} line;

INLINE line line_at(const condition *c, long segment, long i) {
    vec left = load(frame(c, segment - 1) + i);
    return (line){left, load(frame(c, segment) + i) - left};
}

INLINE vec on(line l, vec weight, vec x) { return x + fma_(l.slope, weight, l.left); }

/* Rows start..start + rows of hidden -> gated. */
INLINE void forward_rows(const condition *c, long segment, long G, const void *hidden, long start, long rows,
                         const float *weight, void *gated, int half) {
    for (long g = 0; g < G; g += LANES) {
        line a = line_at(c, segment, g), b = line_at(c, segment, G + g);
        for (long r = 0; r < rows; r++) {
            long at = (start + r) * 2 * G + g;
            vec w = splat(weight[r]);
            vec y = gate(on(a, w, load_number(hidden, at, half)), on(b, w, load_number(hidden, at + G, half)), half);
            store_number(gated, (start + r) * G + g, y, half);
        }
    }
}

/* The same rows: gated_grad and hidden -> hidden_grad; `around` (2, 2G) grows by what reaches the two frames. */
INLINE void backward_rows(const condition *c, long segment, long G, const void *hidden, const void *gated_grad,
                          long start, long rows, const float *weight, void *hidden_grad, float *around, int half) {
    for (long g = 0; g < G; g += LANES) {
        line a = line_at(c, segment, g), b = line_at(c, segment, G + g);
        vec zero = splat(0.0f), one = splat(1.0f), sum_a = zero, sum_b = zero, right_a = zero, right_b = zero;
        for (long r = 0; r < rows; r++) {
            long at = (start + r) * 2 * G + g;
            vec w = splat(weight[r]), d = load_number(gated_grad, (start + r) * G + g, half);
            gate_parts p =
                gate_split(on(a, w, load_number(hidden, at, half)), on(b, w, load_number(hidden, at + G, half)));
            vec a_grad = d * p.sigmoid * (one - p.tanh * p.tanh), b_grad = d * p.tanh * p.sigmoid * (one - p.sigmoid);
            store_number(hidden_grad, at, a_grad, half);
            store_number(hidden_grad, at + G, b_grad, half);
            sum_a += a_grad, sum_b += b_grad;
            right_a = fma_(a_grad, w, right_a), right_b = fma_(b_grad, w, right_b);
        }
        float *left = around + g, *right = left + 2 * G;
        store(left, load(left) + (sum_a - right_a)), store(left + G, load(left + G) + (sum_b - right_b));
        store(right, load(right) + right_a), store(right + G, load(right + G) + right_b);
    }
}

/* The weights of samples t..t + rows of one unit. */
INLINE void weights_of(const condition *c, long t, long rows, float *weight) {
    float first = weight_of(c, t), step = 1.0f / c->hop;
    for (long r = 0; r < rows; r++)
        weight[r] = first + r * step;
}

/* Not inlined, for gcc runs out of registers inside of a parallel loop. */
static __attribute__((noinline)) void forward_unit(const activation *s, const condition *c, unit u, const void *hidden,
                                                   void *gated) {
    float weight[ROWS];
    for (long t = u.start; t < u.stop; t += ROWS) {
        long rows = u.stop - t < ROWS ? u.stop - t : ROWS, row = u.item * s->length + t;
        weights_of(c, s->offset + t, rows, weight);
        if (s->half)
            forward_rows(c, u.segment, s->gate, hidden, row, rows, weight, gated, 1);
        else
            forward_rows(c, u.segment, s->gate, hidden, row, rows, weight, gated, 0);
    }
}

static __attribute__((noinline)) void backward_unit(const activation *s, const condition *c, unit u, const void *hidden,
                                                    const void *gated_grad, void *hidden_grad, float *around) {
    float weight[ROWS];
    for (long t = u.start; t < u.stop; t += ROWS) {
        long rows = u.stop - t < ROWS ? u.stop - t : ROWS, row = u.item * s->length + t;
        weights_of(c, s->offset + t, rows, weight);
        if (s->half)
            backward_rows(c, u.segment, s->gate, hidden, gated_grad, row, rows, weight, hidden_grad, around, 1);
        else
            backward_rows(c, u.segment, s->gate, hidden, gated_grad, row, rows, weight, hidden_grad, around, 0);
    }
}

static condition condition_of(const activation *s, const float *frames, unit u) {
    return (condition){frames + u.item * s->frames * 2 * s->gate, s->frames, 2 * s->gate, s->hop};
}

/* hidden (B, T, 2G), frames (B, L, 2G) -> gated (B, T, G). */
void gate_forward(const activation *s, const void *hidden, const float *frames, void *gated) {
    long total = s->batch * units_per_clip(s->length, s->hop, s->offset);
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (long i = 0; i < total; i++) {
        unit u = unit_at(i, s->length, s->hop, s->offset);
        condition c = condition_of(s, frames, u);
        forward_unit(s, &c, u, hidden, gated);
    }
}

/* gated_grad (B, T, G) -> hidden_grad (B, T, 2G), frames_grad (B, L, 2G); around (units, 2, 2G) is scratch, zero. */
void gate_backward(const activation *s, const void *hidden, const float *frames, const void *gated_grad,
                   void *hidden_grad, float *around, float *frames_grad) {
    long total = s->batch * units_per_clip(s->length, s->hop, s->offset), W = 2 * s->gate;
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (long i = 0; i < total; i++) {
        unit u = unit_at(i, s->length, s->hop, s->offset);
        condition c = condition_of(s, frames, u);
        backward_unit(s, &c, u, hidden, gated_grad, hidden_grad, around + i * 2 * W);
    }
    add_up_frames(around, frames_grad, s->batch, s->length, s->hop, s->offset, s->frames, W);
}

/* Units of one clip: how many pairs of frames `gate_backward` keeps apart. */
long gate_units(const activation *s) { return units_per_clip(s->length, s->hop, s->offset); }
