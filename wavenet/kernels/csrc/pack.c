/* Matrices as operand b of a product: blocks of LANES columns, in each the words of all taps in order. */
#include "product.h"

/* Matrices w (taps, k, n), with these strides, in floats. */
void pack(word *y, const float *w, long taps, long k, long n, long tap_stride, long k_stride, long n_stride,
          long half) {
    for (long block = 0; block < n; block += LANES)
        for (long tap = 0; tap < taps; tap++)
            for (long i = 0; i < k; i += half ? 2 : 1)
                for (long lane = 0; lane < LANES; lane++, y++) {
                    const float *x = w + tap * tap_stride + i * k_stride + (block + lane) * n_stride;
                    if (half)
                        *y = to_bf16(x[0]) | (word)to_bf16(x[k_stride]) << 16;
                    else
                        memcpy(y, x, sizeof *y);
                }
}
