/* The layer forward: what `layer_backward.c` needs again is the pre-activation, kept in the operands' type. */
#include "layer.h"

static void forward_panel(const layer *l, const condition *cond, const float *x, const float *skips, const word *weight,
                          const word *out_weight, const float *out_bias, long start, long rows, float *y,
                          float *skips_out, word *pre_out) {
    long C = l->residual, G = l->gate, S = l->skip, words = words_of(C, l->half);
    float pre[PANEL * 2 * WIDEST], out[PANEL * 2 * WIDEST];
    word taps[MOST_TAPS * PANEL * WIDEST], gated[PANEL * WIDEST];
    operands conv = {.taps = l->taps, .words = words, .a_row = words, .a_word = 1};
    conv.b = weight, conv.b_word = LANES, conv.b_block = l->taps * words * LANES;
    gather_taps(l, x, start, rows, taps);
    for (long tap = 0; tap < l->taps; tap++)
        conv.a[tap] = taps + tap * rows * words;
    interpolate(cond, 0, 2 * G, l->offset + start, rows, pre);
    product(l->half, &conv, rows, 2 * G, pre, 2 * G);
    float one[WIDEST];
    for (long r = 0; r < rows; r++) {
        for (long g = 0; g < G; g += LANES)
            store(one + g, gate(load(pre + r * 2 * G + g), load(pre + r * 2 * G + G + g), l->half));
        to_words(gated + r * words_of(G, l->half), one, G, l->half);
        memcpy(out + r * (C + S), out_bias, (C + S) * sizeof *out);
    }
    if (pre_out)
        to_words(pre_out + start * words_of(2 * G, l->half), pre, rows * 2 * G, l->half);
    operands mix = {.a = {gated}, .taps = 1, .words = words_of(G, l->half), .a_row = words_of(G, l->half), .a_word = 1};
    mix.b = out_weight, mix.b_word = LANES, mix.b_block = mix.words * LANES;
    product(l->half, &mix, rows, C + S, out, C + S);
    for (long r = 0; r < rows; r++) {
        const float *o = out + r * (C + S);
        long t = start + r;
        for (long c = 0; c < C; c += LANES)
            store(y + t * C + c, load(x + t * C + c) + load(o + c));
        for (long s = 0; s < S; s += LANES) {
            vec before = skips ? load(skips + t * S + s) : splat(0.0f);
            store(skips_out + t * S + s, before + load(o + C + s));
        }
    }
}

/* x, y (B, T, residual); skips (B, T, skip) or NULL; frames (B, L, 2G); pre (B, T, 2G) in the operands' type, or NULL.
 */
void layer_forward(const layer *l, const float *x, const float *skips, const word *weight, const word *out_weight,
                   const float *out_bias, const float *frames, float *y, float *skips_out, word *pre) {
    long C = l->residual, W = 2 * l->gate, S = l->skip, T = l->length;
    long total = l->batch * units_per_clip(T, l->hop, l->offset);
#pragma omp parallel num_threads(l->threads)
    {
        products_begin();
#pragma omp for schedule(static)
        for (long i = 0; i < total; i++) {
            unit u = unit_at(i, T, l->hop, l->offset);
            condition cond = {frames + u.item * l->frames * W, l->frames, W, l->hop};
            long at = u.item * T;
            for (long start = u.start; start < u.stop; start += PANEL) {
                long rows = u.stop - start < PANEL ? u.stop - start : PANEL;
                forward_panel(l, &cond, x + at * C, skips ? skips + at * S : NULL, weight, out_weight, out_bias, start,
                              rows, y + at * C, skips_out + at * S, pre ? pre + at * words_of(W, l->half) : NULL);
            }
        }
        products_end();
    }
}

/* Units of one clip: how many pairs of frames `layer_backward` keeps apart. */
long layer_units(const layer *l) { return units_per_clip(l->length, l->hop, l->offset); }
