/* The one matrix product that forward, backward and weight gradients share: c[r][n] += sum_k a[r][k] b[k][n].

   The reduction runs over 32-bit words: one float, or two neighbouring bfloat16 that one instruction multiplies and
   adds in float. A word of `a` is broadcast; of `b`, LANES neighbouring columns make a vector. */
#pragma once
#include "amx.h"
#include "vec.h"

typedef uint32_t word;

/* A block of c fills the registers, of which AVX-512 has 32 and AVX2 has 16. */
enum { MOST_TAPS = 3, MOST_ROWS = 8, BLOCK_ROWS = LANES == 16 ? MOST_ROWS : 6, BLOCK_VECS = 2 };

/* a: a pointer a tap, to the word of row 0; rows and words lie `a_row` and `a_word` words apart.
   b: the words of all taps in order, `b_word` apart, for LANES columns; the next LANES lie `b_block` on. */
typedef struct {
    const word *a[MOST_TAPS];
    long taps, words, a_row, a_word;
    const word *b;
    long b_word, b_block;
} operands;

INLINE vec dot(vec c, word a, const word *b, int half) {
#ifdef __AVX512BF16__
    if (half)
        return _mm512_dpbf16_ps(c, (__m512bh)_mm512_loadu_si512(b), (__m512bh)_mm512_set1_epi32((int)a));
#else
    if (half) {
        bits pairs, both = (bits){0} + (int32_t)a;
        memcpy(&pairs, b, sizeof pairs);
        c = fma_((vec)(both << 16), (vec)(pairs << 16), c);
        return fma_((vec)(both & ~0xffff), (vec)(pairs & ~0xffff), c);
    }
#endif
    float x;
    memcpy(&x, &a, 4);
    return fma_(splat(x), load((const float *)b), c);
}

/* `rows` x LANES `vecs` of c, which stay in registers; both counts are constants where this is inlined. */
INLINE void block(int rows, int vecs, int half, const operands *o, long row, long column, float *c, long c_row) {
    vec sum[MOST_ROWS][BLOCK_VECS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++)
            sum[r][v] = load(c + r * c_row + v * LANES);
    const word *b = o->b + column / LANES * o->b_block;
    for (long tap = 0; tap < o->taps; tap++) {
        const word *a = o->a[tap] + row * o->a_row;
#pragma GCC unroll 4
        for (long w = 0; w < o->words; w++, a += o->a_word, b += o->b_word)
            for (int r = 0; r < rows; r++)
                for (int v = 0; v < vecs; v++)
                    sum[r][v] = dot(sum[r][v], a[r * o->a_row], b + v * o->b_block, half);
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++)
            store(c + r * c_row + v * LANES, sum[r][v]);
}

INLINE void few_rows(long rows, int vecs, int half, const operands *o, long row, long column, float *c, long c_row) {
    switch (rows) {
    case 1: block(1, vecs, half, o, row, column, c, c_row); break;
    case 2: block(2, vecs, half, o, row, column, c, c_row); break;
    case 3: block(3, vecs, half, o, row, column, c, c_row); break;
    case 4: block(4, vecs, half, o, row, column, c, c_row); break;
    case 5: block(5, vecs, half, o, row, column, c, c_row); break;
    case 6: block(6, vecs, half, o, row, column, c, c_row); break;
    case 7: block(7, vecs, half, o, row, column, c, c_row); break;
    case 8: block(8, vecs, half, o, row, column, c, c_row); break;
    }
}

INLINE void product_(int half, const operands *o, long rows, long columns, float *c, long c_row) {
    for (long n = 0; n < columns; n += BLOCK_VECS * LANES) /* the columns' slab of b stays in L1 for all rows */
        for (long r = 0; r < rows; r += BLOCK_ROWS) {
            long few = rows - r < BLOCK_ROWS ? rows - r : BLOCK_ROWS;
            if (columns - n > LANES)
                few_rows(few, 2, half, o, r, n, c + r * c_row + n, c_row);
            else
                few_rows(few, 1, half, o, r, n, c + r * c_row + n, c_row);
        }
}

#if AMX
/* Two by two tiles of c at a time, as far as whole tiles of 16 rows go; returns the rows that are done. */
static long product_tiles(const operands *o, long rows, long columns, float *c, long c_row) {
    long done = rows / 16 * 16, step = c_row * 4;
    for (long n = 0; n < columns; n += 32)
        for (long r = 0; r < done; r += 32) {
            int wide = n + 16 < columns, tall = r + 16 < done;
            float *at = c + r * c_row + n;
            tile_load(0, at, step);
            if (wide)
                tile_load(1, at + 16, step);
            if (tall)
                tile_load(2, at + 16 * c_row, step);
            if (wide && tall)
                tile_load(3, at + 16 * c_row + 16, step);
            const word *b = o->b + n / LANES * o->b_block;
            for (long tap = 0; tap < o->taps; tap++)
                for (long w = 0; w < o->words; w += 16, b += 16 * LANES) {
                    const word *a = o->a[tap] + r * o->a_row + w;
                    tile_load(4, a, o->a_row * 4);
                    tile_load(6, b, 64);
                    tile_dot(0, 4, 6);
                    if (wide)
                        tile_load(7, b + o->b_block, 64);
                    if (wide)
                        tile_dot(1, 4, 7);
                    if (!tall)
                        continue;
                    tile_load(5, a + 16 * o->a_row, o->a_row * 4);
                    tile_dot(2, 5, 6);
                    if (wide)
                        tile_dot(3, 5, 7);
                }
            tile_store(0, at, step);
            if (wide)
                tile_store(1, at + 16, step);
            if (tall)
                tile_store(2, at + 16 * c_row, step);
            if (wide && tall)
                tile_store(3, at + 16 * c_row + 16, step);
        }
    return done;
}

/* Whether the tiles are ours to use, and multiply as they should: small whole numbers come out exactly. */
static int tiles_work(void) {
    static int known; /* 1: yes, -1: no */
    if (known)
        return known > 0;
    if (!tiles_lent())
        return (known = -1) > 0;
    word a[16 * 16], b[16 * 16];
    float c[16 * 16] = {0};
    for (int i = 0; i < 256; i++)
        a[i] = 0x40004040 + (i % 3 << 22), b[i] = 0x3f804000 + (i % 5 % 2 << 23);
    operands o = {.a = {a}, .taps = 1, .words = 16, .a_row = 16, .a_word = 1, .b = b, .b_word = LANES, .b_block = 256};
    tiles_begin();
    product_tiles(&o, 16, 16, c, 16);
    tiles_end();
    float expected[16 * 16] = {0};
    product_(1, &o, 16, 16, expected, 16);
    known = memcmp(c, expected, sizeof c) ? -1 : 1;
    return known > 0;
}

INLINE void products_begin(void) {
    if (tiles_work())
        tiles_begin();
}
INLINE void products_end(void) {
    if (tiles_work())
        tiles_end();
}
#else
INLINE void products_begin(void) {}
INLINE void products_end(void) {}
#endif

/* c (rows, columns), rows `c_row` floats apart; columns in whole vectors. Every thread calls `products_begin` before
   and `products_end` after. */
static __attribute__((unused)) void product(int half, const operands *o, long rows, long columns, float *c,
                                            long c_row) {
    if (!half) {
        product_(0, o, rows, columns, c, c_row);
        return;
    }
    long done = 0;
#if AMX
    if (o->a_word == 1 && o->b_word == LANES && o->words % 16 == 0 && tiles_work())
        done = product_tiles(o, rows, columns, c, c_row);
#endif
    operands rest = *o;
    for (long tap = 0; tap < o->taps; tap++)
        rest.a[tap] += done * o->a_row;
    product_(1, &rest, rows - done, columns, c + done * c_row, c_row);
}

/* Words of `n` numbers. */
INLINE long words_of(long n, int half) { return half ? n / 2 : n; }

/* n floats as the words of an operand. */
INLINE void to_words(word *y, const float *x, long n, int half) {
    if (!half) {
        memcpy(y, x, n * sizeof *x);
        return;
    }
    for (long i = 0; i < n; i += LANES)
        store_bf16((bf16 *)y + i, load(x + i));
}
