/* The layer backward. First, panel by panel, the gradient of the pre-activation, and those of weights and frames, which
   are sums over time; then that of x, for which every sample reads the pre-activations after it. */
#include <omp.h>

#include "layer.h"

/* Every thread adds to sums of its own, (2G, taps C), (C + S, G) and (C + S). */
typedef struct {
    float *weight, *out_weight, *out_bias;
} weight_sums;

static weight_sums sums_of(const layer *l, float *sums, long thread) {
    if (!sums)
        return (weight_sums){0};
    long conv = 2 * l->gate * l->taps * l->residual, outs = l->residual + l->skip;
    float *mine = sums + thread * (conv + outs * l->gate + outs);
    return (weight_sums){mine, mine + conv, mine + conv + outs * l->gate};
}

/* Operand rows (rows, n) as words along the rows: (rows, n) floats stay; of bfloat16, two rows make a word. */
static long along_rows(word *y, const word *x, long rows, long n, int half) {
    if (!half) {
        memcpy(y, x, rows * n * sizeof *y);
        return rows;
    }
    for (long r = 0; r < rows; r += 2) {
        const bf16 *low = (const bf16 *)x + r * n, *high = low + n;
        word *pair = y + r / 2 * n;
        if (r + 1 < rows)
            for (long i = 0; i < n; i++)
                pair[i] = low[i] | (word)high[i] << 16;
        else
            for (long i = 0; i < n; i++)
                pair[i] = low[i];
    }
    return (rows + 1) / 2;
}

/* c (m, n) += a^T b, both given along the rows, (words, m) and (words, n). */
static void add_outer(int half, const word *a, long m, const word *b, long n, long words, float *c, long c_row) {
    operands o = {.a = {a}, .taps = 1, .words = words, .a_row = 1, .a_word = m, .b = b, .b_word = n, .b_block = LANES};
    product(half, &o, m, n, c, c_row);
}

/* The gradients that reach a panel's output, side by side as operands (rows, C + S); their sum over time, if asked
   for. */
static void gather_gradients(const layer *l, const float *y_grad, const float *skips_grad, long start, long rows,
                             word *y, float *sum) {
    long C = l->residual, S = l->skip;
    float row[2 * WIDEST];
    for (long r = 0; r < rows; r++, y += words_of(C + S, l->half)) {
        if (y_grad)
            memcpy(row, y_grad + (start + r) * C, C * sizeof *row);
        else
            memset(row, 0, C * sizeof *row);
        if (S)
            memcpy(row + C, skips_grad + (start + r) * S, S * sizeof *row);
        for (long i = 0; sum && i < C + S; i += LANES)
            store(sum + i, load(sum + i) + load(row + i));
        to_words(y, row, C + S, l->half);
    }
}

/* Through the gate: of one row, gated_grad (G) and pre (2G) -> pre_grad (2G), and gated (G) once more. */
static void gate_backward(const layer *l, const float *gated_grad, const word *pre, float *pre_grad, float *gated) {
    long G = l->gate;
    for (long g = 0; g < G; g += LANES) {
        gate_parts p = gate_split(load_number(pre, g, l->half), load_number(pre, G + g, l->half));
        vec d = load(gated_grad + g), one = splat(1.0f), product = p.tanh * p.sigmoid;
        store(gated + g, product);
        store(pre_grad + g, d * p.sigmoid * (one - p.tanh * p.tanh));
        store(pre_grad + G + g, d * product * (one - p.sigmoid));
    }
}

static void backward_panel(const layer *l, const float *x, const float *y_grad, const float *skips_grad,
                           const word *out_weight, const word *pre, long start, long rows, word *pre_grad,
                           float *around, const condition *cond, weight_sums sums) {
    long C = l->residual, G = l->gate, outs = C + l->skip, W = 2 * G, pre_words = words_of(W, l->half);
    word ends[PANEL * 2 * WIDEST], gated[PANEL * WIDEST], taps[MOST_TAPS * PANEL * WIDEST];
    word a[PANEL * 2 * WIDEST], b[PANEL * WIDEST];
    float gated_grad[PANEL * WIDEST], row[2 * WIDEST], one[WIDEST];
    gather_gradients(l, y_grad, skips_grad, start, rows, ends, sums.out_bias);
    memset(gated_grad, 0, rows * G * sizeof *gated_grad);
    operands back = {
        .a = {ends}, .taps = 1, .words = words_of(outs, l->half), .a_row = words_of(outs, l->half), .a_word = 1};
    back.b = out_weight, back.b_word = LANES, back.b_block = back.words * LANES;
    product(l->half, &back, rows, G, gated_grad, G);
    for (long r = 0; r < rows; r++) {
        gate_backward(l, gated_grad + r * G, pre + (start + r) * pre_words, row, one);
        to_words(gated + r * words_of(G, l->half), one, G, l->half);
        to_words(pre_grad + (start + r) * pre_words, row, W, l->half);
        vec w = splat(weight_of(cond, l->offset + start + r));
        for (long i = 0; i < W; i += LANES) {
            vec d = load(row + i), right = d * w;
            store(around + i, load(around + i) + (d - right));
            store(around + W + i, load(around + W + i) + right);
        }
    }
    if (!sums.weight)
        return;
    long words = along_rows(a, ends, rows, outs, l->half);
    along_rows(b, gated, rows, G, l->half);
    add_outer(l->half, a, outs, b, G, words, sums.out_weight, G);
    along_rows(a, pre_grad + start * pre_words, rows, W, l->half);
    gather_taps(l, x, start, rows, taps);
    for (long tap = 0; tap < l->taps; tap++) {
        along_rows(b, taps + tap * rows * words_of(C, l->half), rows, C, l->half);
        add_outer(l->half, a, W, b, C, words, sums.weight + tap * C, l->taps * C);
    }
}

/* x_grad[t] = y_grad[t] + sum_k W_k^T pre_grad[t + (K - 1 - k) dilation]; pre_grad goes on with zeros after its end. */
static void input_panel(const layer *l, const float *y_grad, const word *weight, const word *pre_grad, long start,
                        long rows, float *x_grad) {
    long C = l->residual, words = words_of(2 * l->gate, l->half);
    if (y_grad)
        memcpy(x_grad + start * C, y_grad + start * C, rows * C * sizeof *x_grad);
    else
        memset(x_grad + start * C, 0, rows * C * sizeof *x_grad);
    operands o = {.taps = l->taps, .words = words, .a_row = words, .a_word = 1};
    o.b = weight, o.b_word = LANES, o.b_block = l->taps * words * LANES;
    for (long tap = 0; tap < l->taps; tap++)
        o.a[tap] = pre_grad + (start + (l->taps - 1 - tap) * l->dilation) * words;
    product(l->half, &o, rows, C, x_grad + start * C, C);
}

/* x (B, T, C), y_grad (B, T, C) or NULL, skips_grad (B, T, S), weight (taps, 2G -> C) and out_weight (C + S -> G)
   packed, pre (B, T, 2G); pre_grad (B, T + reach, 2G), around (units, 2, 2G) and sums (threads, ..) are scratch, the
   last two zero; without sums (NULL) the weights get no gradient
   -> x_grad (B, T, C), frames_grad (B, L, 2G). */
void layer_backward(const layer *l, const float *x, const float *y_grad, const float *skips_grad, const word *weight,
                    const word *out_weight, const float *frames, const word *pre, word *pre_grad, float *around,
                    float *sums, float *x_grad, float *frames_grad) {
    long C = l->residual, W = 2 * l->gate, S = l->skip, T = l->length, reach = (l->taps - 1) * l->dilation;
    long words = words_of(W, l->half), total = l->batch * units_per_clip(T, l->hop, l->offset);
#pragma omp parallel num_threads(l->threads)
    {
        products_begin();
        weight_sums mine = sums_of(l, sums, omp_get_thread_num());
#pragma omp for schedule(static)
        for (long i = 0; i < total; i++) {
            unit u = unit_at(i, T, l->hop, l->offset);
            condition cond = {frames + u.item * l->frames * W, l->frames, W, l->hop};
            long at = u.item * T;
            for (long start = u.start; start < u.stop; start += PANEL)
                backward_panel(l, x + at * C, y_grad ? y_grad + at * C : NULL, skips_grad ? skips_grad + at * S : NULL,
                               out_weight, pre + at * words, start, u.stop - start < PANEL ? u.stop - start : PANEL,
                               pre_grad + u.item * (T + reach) * words, around + i * 2 * W, &cond, mine);
        }
#pragma omp for schedule(static)
        for (long item = 0; item < l->batch; item++)
            memset(pre_grad + (item * (T + reach) + T) * words, 0, reach * words * sizeof *pre_grad);
#pragma omp for schedule(static)
        for (long i = 0; i < total; i++) {
            unit u = unit_at(i, T, l->hop, l->offset);
            long at = u.item * T * C;
            for (long start = u.start; start < u.stop; start += PANEL)
                input_panel(l, y_grad ? y_grad + at : NULL, weight, pre_grad + u.item * (T + reach) * words, start,
                            u.stop - start < PANEL ? u.stop - start : PANEL, x_grad + at);
        }
        products_end();
    }
    add_up_frames(around, frames_grad, l->batch, T, l->hop, l->offset, l->frames, W);
}
