/* One gated residual layer over whole clips, computed panel by panel: a panel's operands, pre-activations and gated
   values stay in the cache between the products. Letters as in `reference.residual_layer`. */
#pragma once
#include "product.h"
#include "units.h"

typedef struct {
    long batch, length, residual, gate, skip, taps, dilation; /* gate: G, half the width of the pre-activation */
    long frames, hop, offset;                                 /* of the condition; its bias is added already */
    long half, threads;                                       /* half: products of bfloat16, sums of float */
} layer;

/* Rows start..start + rows of x, every tap's view of them, as operands (taps, rows, residual). Before 0, x is zero. */
INLINE void gather_taps(const layer *l, const float *x, long start, long rows, word *y) {
    long C = l->residual, words = words_of(C, l->half);
    for (long tap = 0; tap < l->taps; tap++)
        for (long r = 0; r < rows; r++, y += words) {
            long t = start + r - (l->taps - 1 - tap) * l->dilation;
            if (t < 0)
                memset(y, 0, words * sizeof *y);
            else
                to_words(y, x + t * C, C, l->half);
        }
}
