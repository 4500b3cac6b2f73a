/* A chain of inverse autoregressive flows over the next samples of one utterance, tile by tile: a tile goes through all
   layers of all flows while its activations lie in the cache. What a layer still needs of the past is carried from tile
   to tile, so a chain never computes a sample twice and holds the same memory for any length.

   Some layers of a flow, a stage, on a tile are one task. It waits for the stage before it on this tile, and for itself
   on the tile before; so the stages work on different tiles at a time, as many threads as there are stages. */
#include "gate.h"
#include "product.h"

enum { PANEL = 32, WIDEST = 256, OUTPUTS = 16 };

/* The network of one flow, without skip connections, and the units of what it reads and says. */
typedef struct {
    long layers, channels, gate, taps;      /* C; G, half the width of the pre-activation */
    long stage;                             /* layers of a stage; the last one may have less */
    long excited;                           /* E, channels of the excitation */
    const long *dilations;                  /* (layers) */
    const float *first_weight, *first_bias; /* (1 + E, C), (C) */
    const word *conv, *out;                 /* packed, layer after layer */
    const float *out_bias;                  /* (layers, C) */
    const word *hidden, *last;              /* packed; last in float32, (C -> 16), two columns in use */
    const float *hidden_bias, *last_bias;
    float reads, speaks;
    float *before;   /* the sample before the tile, in the flow's own input */
    word *past;      /* per layer: its reach of past inputs, then the tile's: (reach + tile, C) */
    float *residual; /* (stages, tile, C): tiles on their way from stage to stage */
} flow;

/* ln(1 + e^x). With q = e^-|x|, ln(1 + q) = 2 artanh(q / (2 + q)), exact for small q. */
INLINE vec softplus(vec x) {
    vec q = exp2_(min_(x, splat(0) - x) * splat(LOG2E)), s = q / (splat(2) + q), square = s * s;
    vec y = splat(0.10f);
    y = fma_(y, square, splat(1.0f / 9));
    y = fma_(y, square, splat(1.0f / 7));
    y = fma_(y, square, splat(1.0f / 5));
    y = fma_(y, square, splat(1.0f / 3));
    y = fma_(y, square, splat(1.0f));
    return max_(x, splat(0)) + splat(2) * s * y;
}

static operands panel_of(const word *a, long words, const word *b) {
    return (operands){.a = {a},
                      .taps = 1,
                      .words = words,
                      .a_row = words,
                      .a_word = 1,
                      .b = b,
                      .b_word = LANES,
                      .b_block = words * LANES};
}

/* The network's way in: the sample before each, and the excitation (length, E), each times a vector. */
static void enter(const flow *f, const float *x, const float *excitation, long length, float *residual) {
    long C = f->channels, E = f->excited;
    for (long t = 0; t < length; t++) {
        vec past = splat((t ? x[t - 1] : *f->before) / f->reads);
        for (long c = 0; c < C; c += LANES) {
            vec sum = fma_(load(f->first_weight + c), past, load(f->first_bias + c));
            for (long e = 0; e < E; e++)
                sum = fma_(load(f->first_weight + (1 + e) * C + c), splat(excitation[t * E + e]), sum);
            store(residual + t * C + c, sum);
        }
    }
    *f->before = x[length - 1];
}

/* One layer for `rows` samples from `start`: the residual grows, and `y`, the next layer's input, is written if that is
 * of the same stage. */
static void layer_rows(const flow *f, long i, const word *past, const condition *cond, long now, long start, long rows,
                       float *residual, word *y, int half) {
    long C = f->channels, G = f->gate, words = words_of(C, half), gate_words = words_of(G, half);
    float pre[PANEL * 2 * WIDEST], one[WIDEST], out[PANEL * WIDEST];
    word gated[PANEL * WIDEST];
    operands conv = {.taps = f->taps, .words = words, .a_row = words, .a_word = 1, .b_word = LANES};
    conv.b = f->conv + i * f->taps * words * 2 * G, conv.b_block = f->taps * words * LANES;
    for (long tap = 0; tap < f->taps; tap++)
        conv.a[tap] = past + (start + tap * f->dilations[i]) * words;
    interpolate(cond, i * 2 * G, 2 * G, now + start, rows, pre);
    product(half, &conv, rows, 2 * G, pre, 2 * G);
    for (long r = 0; r < rows; r++) {
        for (long g = 0; g < G; g += LANES)
            store(one + g, gate(load(pre + r * 2 * G + g), load(pre + r * 2 * G + G + g), half));
        to_words(gated + r * gate_words, one, G, half);
        memcpy(out + r * C, f->out_bias + i * C, C * sizeof *out);
    }
    operands mix = panel_of(gated, gate_words, f->out + i * gate_words * C);
    product(half, &mix, rows, C, out, C);
    for (long r = 0; r < rows; r++) {
        float *row = residual + (start + r) * C;
        for (long c = 0; c < C; c += LANES)
            store(row + c, load(row + c) + load(out + r * C + c));
        if (y)
            to_words(y + (start + r) * words, row, C, half);
    }
}

/* The way out, and x = z s + m in place of z. */
static void leave(const flow *f, const float *residual, float *x, long start, long rows, int half) {
    long C = f->channels;
    float row[WIDEST], hidden[PANEL * WIDEST], last[PANEL * OUTPUTS], m[PANEL], s[PANEL];
    word in[PANEL * WIDEST];
    for (long r = 0; r < rows; r++) {
        for (long c = 0; c < C; c += LANES)
            store(row + c, max_(load(residual + (start + r) * C + c), splat(0)));
        to_words(in + r * words_of(C, half), row, C, half);
        memcpy(hidden + r * C, f->hidden_bias, C * sizeof *hidden);
        memcpy(last + r * OUTPUTS, f->last_bias, sizeof row[0] * OUTPUTS);
    }
    operands mix = panel_of(in, words_of(C, half), f->hidden);
    product(half, &mix, rows, C, hidden, C);
    for (long i = 0; i < rows * C; i += LANES)
        store(hidden + i, max_(load(hidden + i), splat(0)));
    operands end = panel_of((const word *)hidden, C, f->last);
    product(0, &end, rows, OUTPUTS, last, OUTPUTS);
    for (long r = 0; r < rows; r++)
        m[r] = last[r * OUTPUTS], s[r] = last[r * OUTPUTS + 1];
    for (long r = rows; r < PANEL; r++)
        s[r] = 0;
    for (long r = 0; r < rows; r += LANES)
        store(s + r, softplus(load(s + r)));
    for (long r = 0; r < rows; r++)
        x[start + r] = x[start + r] * s[r] + f->speaks * m[r];
}

/* A tile of a flow, and its share of a stage: what the layers from `first` to before `end` read and write. */
typedef struct {
    const flow *flow;
    long first, end;
    word *past;      /* of layer `first` */
    float *residual; /* (tile, C) */
} stage;

/* The stage that begins at layer `first`, whose memory begins at `past`, for tile number n. */
static stage stage_of(const flow *f, long first, word *past, long n, long tile) {
    long stages = (f->layers + f->stage - 1) / f->stage;
    return (stage){.flow = f,
                   .first = first,
                   .end = first + f->stage < f->layers ? first + f->stage : f->layers,
                   .past = past,
                   .residual = f->residual + n % stages * tile * f->channels};
}

/* Where the memory of the stage after this one begins. */
static word *past_end(const stage *s, long tile, int half) {
    long rows = 0;
    for (long i = s->first; i < s->end; i++)
        rows += (s->flow->taps - 1) * s->flow->dilations[i] + tile;
    return s->past + rows * words_of(s->flow->channels, half);
}

/* A stage over a tile x (length), which the last one overwrites; `now` is its first sample's place in the condition. */
static void stage_tile(const stage *s, const condition *cond, const float *excitation, float *x, long now, long length,
                       long tile, int half) {
    const flow *f = s->flow;
    long C = f->channels, words = words_of(C, half);
    word *past = s->past, *next = past;
    if (s->first == 0)
        enter(f, x, excitation, length, s->residual);
    for (long t = 0; t < length; t++)
        to_words(past + ((f->taps - 1) * f->dilations[s->first] + t) * words, s->residual + t * C, C, half);
    for (long i = s->first; i < s->end; i++, past = next) {
        long reach = (f->taps - 1) * f->dilations[i];
        next = past + (reach + tile) * words;
        word *y = i + 1 < s->end ? next + (f->taps - 1) * f->dilations[i + 1] * words : NULL;
        for (long at = 0; at < length; at += PANEL)
            layer_rows(f, i, past, cond, now, at, length - at < PANEL ? length - at : PANEL, s->residual, y, half);
        memmove(past, past + length * words, reach * words * sizeof *past); /* what the next tile needs */
    }
    for (long at = 0; at < length && s->end == f->layers; at += PANEL)
        leave(f, s->residual, x, at, length - at < PANEL ? length - at : PANEL, half);
}

/* The next `length` samples: z (length) becomes x. `frames` holds, for every flow, a (count, layers 2G) matrix; sample
   0 lies at `offset` of its first frame. The excitation (length, E) is the same for all flows. */
void chain_run(const flow *flows, long count, const float *const *frames, long frame_count, long hop, long offset,
               const float *excitation, float *x, long length, long tile, long half, long threads) {
#pragma omp parallel num_threads(threads)
#pragma omp single
    for (long n = 0; n * tile < length; n++)
        for (const flow *f = flows; f < flows + count; f++) {
            word *past = f->past;
            for (long first = 0; first < f->layers; first += f->stage) {
                stage s = stage_of(f, first, past, n, tile);
                past = past_end(&s, tile, half);
#pragma omp task depend(inout : s.past[0]) depend(inout : s.residual[0]) depend(inout : x[n * tile])
                {
                    condition cond = {frames[f - flows], frame_count, f->layers * 2 * f->gate, hop};
                    long start = n * tile;
                    products_begin();
                    stage_tile(&s, &cond, excitation + start * f->excited, x + start, offset + start,
                               length - start < tile ? length - start : tile, tile, half);
                    products_end();
                }
            }
        }
}
