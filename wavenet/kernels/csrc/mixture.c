/* Log density of mixtures of smoothed logistics, and the cross-entropy of a logistic with them.

   Sixteen mixtures at once, one a lane: no sum runs across lanes, so a mixture's results depend neither on its
   neighbours nor on the number of threads. */
#include "vec.h"

#define LN2 0.693147181f
#define LOG2E 1.44269504f

/* With a = (x - mean) / s, e = exp(-|a|) and q = exp(-h / s), the mass within h of x is

       sigmoid(a + h / s) sigmoid(h / s - a) (1 - q^2) = (1 - q^2) e / D,   D = (e + q) (1 + e q).

   What can leave the range of a float is e alone. It is kept as mantissa and power of two, so that the sum over
   components needs no second exponential: the greatest power is subtracted from all. Once h / s exceeds MOST, a float
   sees only |a| - h / s: the excess is taken from both, and q stays a number. */
enum { MOST = 40 };

/* Beyond these a distance in units of a scale leaves the range of a float, and infinity less infinity is no number:
   what lies beyond counts as what lies there, and has its gradient. */
#define LOG_SCALE_BOUND 60.0f
#define PLACE_BOUND 1e11f
#define LEAST_LOGIT (-1e30f) /* below the greatest */
#define LEAST_DRAW 1.17549435e-38f
#define MOST_DRAW 0.99999994f

/* x within low..high; what is no number stays none. */
INLINE vec within(float low, float high, vec x) { return min_(splat(high), max_(splat(low), x)); }

typedef struct {
    vec mean, rate;    /* rate = log2(e) / s */
    vec decay, excess; /* q; what h / s has above MOST, times log2(e) */
    vec weight, power; /* weight 2^power = share (1 - q^2) / 2h */
    vec share;         /* softmax of the logits */
    vec edge, narrow;  /* q h / s; (2h / s) / (e^(2h / s) - 1) */
} component;

/* A component's share of the density at x, mantissa 2^power, and the slopes of its logarithm. */
typedef struct {
    vec mantissa, power;
    vec pull, spread; /* in the mean, times s; in ln s, plus `narrow` */
} term;

/* Sums of slopes of the log density: in the logit, plus the softmax's part; in the mean, times s; in ln s, plus that of
   `narrow`. */
typedef struct {
    vec logit, mean, log_scale;
} slope;

/* Mixtures, components of each, values or draws for each. `in` and `out` of every function begin with logits, means and
   log scales (rows, K), or their gradients. */
typedef struct {
    long rows, K, N, threads;
    float half_bin;
} shape;

enum { LOGITS, MEANS, LOG_SCALES, X, LOC = X, LOG_SCALE, DRAWS };

INLINE long rows_from(const shape *s, long r) { return s->rows - r < LANES ? s->rows - r : LANES; }

/* A column of `rows` rows, one a lane; the lanes after the last repeat it. */
INLINE vec gather(const float *x, long stride, long rows) {
    float lanes[LANES];
    for (long i = 0; i < LANES; i++)
        lanes[i] = x[(i < rows ? i : rows - 1) * stride];
    return load(lanes);
}

INLINE void scatter(float *y, long stride, long rows, vec x) {
    float lanes[LANES];
    store(lanes, x);
    for (long i = 0; i < rows; i++)
        y[i * stride] = lanes[i];
}

/* The components of the mixtures from row r on. */
static void prepare(component *c, const shape *s, const float *const *in, long r) {
    long K = s->K, rows = rows_from(s, r);
    const float *logits = in[LOGITS] + r * K, *means = in[MEANS] + r * K, *log_scales = in[LOG_SCALES] + r * K;
    vec one = splat(1.0f), top = gather(logits, K, rows), total = splat(0.0f);
    for (long k = 1; k < K; k++)
        top = max_(top, gather(logits + k, K, rows));
    for (long k = 0; k < K; k++) {
        vec logit = max_(splat(LEAST_LOGIT), (gather(logits + k, K, rows) - top) * splat(LOG2E));
        vec rate = exp_(-within(-LOG_SCALE_BOUND, LOG_SCALE_BOUND, gather(log_scales + k, K, rows)));
        vec reach = rate * splat(s->half_bin), most = min_(splat(MOST), reach);
        vec gap = -exp2m1_(most * splat(-2 * LOG2E)); /* 1 - q^2 */
        c[k].mean = within(-PLACE_BOUND, PLACE_BOUND, gather(means + k, K, rows));
        c[k].rate = rate * splat(LOG2E);
        c[k].decay = exp_(-most);
        c[k].excess = (reach - most) * splat(LOG2E);
        c[k].power = round_(logit);
        c[k].weight = exp2m1_fraction(logit - c[k].power) + one;
        c[k].share = scale2(c[k].weight, c[k].power);
        c[k].weight = c[k].weight * gap;
        c[k].edge = c[k].decay * reach;
        c[k].narrow = splat(2.0f) * most * (one - gap) / gap;
        total = total + c[k].share;
    }
    for (long k = 0; k < K; k++) {
        c[k].weight = c[k].weight / (splat(2 * s->half_bin) * total);
        c[k].share = c[k].share / total;
    }
}

/* The terms at x, one x a lane; returns their greatest power. */
INLINE vec terms(term *t, const component *c, long K, vec x, int slopes) {
    vec zero = splat(0.0f), one = splat(1.0f), top = zero;
    x = within(-PLACE_BOUND, PLACE_BOUND, x);
    for (long k = 0; k < K; k++) {
        vec centred = x - c[k].mean, a = abs_(centred) * c[k].rate, q = c[k].decay;
        vec near = max_(zero, a - c[k].excess), whole = round_(near);
        vec over = exp2m1_fraction(whole - near), power = scale2(one, -whole), e = fma_(over, power, power);
        vec inverse = one / ((e + q) * fma_(e, q, one));
        t[k].mantissa = c[k].weight * (one + over) * inverse;
        t[k].power = c[k].power - whole;
        top = k ? max_(top, t[k].power) : t[k].power;
        if (!slopes)
            continue;
        vec less = fma_(-over, power, one - power); /* 1 - e, to the last bits where e is almost 1 */
        vec pull = q * less * (one + e) * inverse;
        t[k].pull = copysign_(pull, centred);
        t[k].spread = a * splat(LN2) * pull - c[k].edge * fma_(e, q + q + e, one) * inverse;
    }
    return top;
}

/* Log density; density gets 2^-top times what it is the logarithm of. */
INLINE vec log_density(const term *t, long K, vec top, vec *density) {
    vec sum = splat(0.0f);
    for (long k = 0; k < K; k++)
        sum = sum + scale2(t[k].mantissa, t[k].power - top);
    *density = sum;
    return fma_(top, splat(LN2), log_(sum));
}

/* Adds the slopes of the log density, times g; returns that in x. scaled: g / density. */
INLINE vec add_slopes(slope *sum, const component *c, const term *t, long K, vec top, vec scaled) {
    vec x = splat(0.0f);
    for (long k = 0; k < K; k++) {
        vec part = scaled * scale2(t[k].mantissa, t[k].power - top), pulled = part * t[k].pull;
        sum[k].logit = sum[k].logit + part;
        sum[k].mean = sum[k].mean + pulled;
        sum[k].log_scale = fma_(part, t[k].spread, sum[k].log_scale);
        x = fma_(-pulled, c[k].rate, x);
    }
    return x * splat(LN2);
}

/* total: the sum of all g. */
static void write_slopes(float *const *out, const shape *s, long r, const slope *sum, const component *c, vec total) {
    long K = s->K, rows = rows_from(s, r);
    for (long k = 0; k < K; k++) {
        scatter(out[LOGITS] + r * K + k, K, rows, sum[k].logit - total * c[k].share);
        scatter(out[MEANS] + r * K + k, K, rows, sum[k].mean * c[k].rate * splat(LN2));
        scatter(out[LOG_SCALES] + r * K + k, K, rows, sum[k].log_scale - sum[k].logit * c[k].narrow);
    }
}

static void density_rows(const shape *s, const float *const *in, float *out, long r) {
    long K = s->K, N = s->N, rows = rows_from(s, r);
    component c[K];
    term t[K];
    prepare(c, s, in, r);
    for (long n = 0; n < N; n++) {
        vec density, top = terms(t, c, K, gather(in[X] + r * N + n, N, rows), 0);
        scatter(out + r * N + n, N, rows, log_density(t, K, top, &density));
    }
}

static void density_rows_backward(const shape *s, const float *const *in, const float *up, float *const *out, long r) {
    long K = s->K, N = s->N, rows = rows_from(s, r);
    component c[K];
    term t[K];
    slope sum[K];
    vec total = splat(0.0f);
    memset(sum, 0, sizeof sum);
    prepare(c, s, in, r);
    for (long n = 0; n < N; n++) {
        vec density, top = terms(t, c, K, gather(in[X] + r * N + n, N, rows), 1), g = gather(up + r * N + n, N, rows);
        log_density(t, K, top, &density);
        scatter(out[X] + r * N + n, N, rows, add_slopes(sum, c, t, K, top, g / density));
        total = total + g;
    }
    write_slopes(out, s, r, sum, c, total);
}

INLINE void entropy_rows(const shape *s, const float *const *in, float *value, float *const *out, long r, int slopes) {
    long K = s->K, N = s->N, rows = rows_from(s, r);
    component c[K];
    term t[K];
    slope sum[K];
    vec one = splat(1.0f), each = splat(-1.0f / N), total = splat(0.0f), loc_slope = total, scale_slope = total;
    vec loc = gather(in[LOC] + r, 1, rows), log_scale = gather(in[LOG_SCALE] + r, 1, rows);
    vec scale = exp_(within(-LOG_SCALE_BOUND, LOG_SCALE_BOUND, log_scale));
    memset(sum, 0, sizeof sum);
    prepare(c, s, in, r);
    for (long n = 0; n < N; n++) {
        vec u = within(LEAST_DRAW, MOST_DRAW, gather(in[DRAWS] + r * N + n, N, rows));
        vec centred = scale * log_(u / (one - u));
        vec density, top = terms(t, c, K, loc + centred, slopes);
        total = total + log_density(t, K, top, &density);
        if (!slopes)
            continue;
        vec x = add_slopes(sum, c, t, K, top, each / density);
        loc_slope = loc_slope + x;
        scale_slope = fma_(x, centred, scale_slope);
    }
    scatter(value + r, 1, rows, total * each);
    if (!slopes)
        return;
    write_slopes(out, s, r, sum, c, -one);
    scatter(out[LOC] + r, 1, rows, loc_slope);
    scatter(out[LOG_SCALE] + r, 1, rows, scale_slope);
}

/* out (rows, N): the log density at in[X] (rows, N). */
void mixture_log_density(const shape *s, const float *const *in, float *out) {
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (long r = 0; r < s->rows; r += LANES)
        density_rows(s, in, out, r);
}

/* out: the gradients of all inputs, from that of the log density, up (rows, N). */
void mixture_log_density_backward(const shape *s, const float *const *in, const float *up, float *const *out) {
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (long r = 0; r < s->rows; r += LANES)
        density_rows_backward(s, in, up, out, r);
}

/* value (rows,): the mean of -log density at loc + exp(log_scale) logit(u), u = in[DRAWS] (rows, N). out, unless null:
   its gradients in all inputs but the draws. */
void mixture_cross_entropy(const shape *s, const float *const *in, float *value, float *const *out) {
#pragma omp parallel for num_threads(s->threads) schedule(static)
    for (long r = 0; r < s->rows; r += LANES) {
        if (out)
            entropy_rows(s, in, value, out, r, 1);
        else
            entropy_rows(s, in, value, 0, r, 0);
    }
}
