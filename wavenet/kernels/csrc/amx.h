/* The matrix unit of some Intel processors: tiles of 16 rows of 64 bytes, and one instruction that multiplies two of
   bfloat16 and adds the products to a third of floats. With EMULATE_AMX the same in C, for processors without. */
#pragma once
#include <stdint.h>
#include <string.h>

#if defined(__AMX_TILE__) && defined(__AMX_BF16__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AMX 1
#define tile_load _tile_loadd
#define tile_store _tile_stored
#define tile_dot _tile_dpbf16ps

/* The kernel lends the tiles' state on request, once a process: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA). */
static int tiles_lent(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

/* Every thread that multiplies says first how its eight tiles are cut, and gives them back at the end. */
static void tiles_begin(void) {
    struct __attribute__((packed)) {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++)
        shape.bytes[i] = 64, shape.rows[i] = 16;
    __asm__ volatile("" : : "m"(shape)); /* GCC thinks that the next line reads 8 bytes, and may not write the others */
    _tile_loadconfig(&shape);
}
static void tiles_end(void) { _tile_release(); }

#elif defined(EMULATE_AMX)

#define AMX 1
static _Thread_local uint32_t tiles[8][16][16];

static int tiles_lent(void) { return 1; }
static void tiles_begin(void) {}
static void tiles_end(void) {}
static void tile_load(int tile, const void *p, long stride) {
    for (int r = 0; r < 16; r++)
        memcpy(tiles[tile][r], (const char *)p + r * stride, 64);
}
static void tile_store(int tile, void *p, long stride) {
    for (int r = 0; r < 16; r++)
        memcpy((char *)p + r * stride, tiles[tile][r], 64);
}
static float half_of(uint32_t word, int upper) {
    uint32_t bits = upper ? word & 0xffff0000u : word << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static void tile_dot(int c, int a, int b) {
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            float sum;
            memcpy(&sum, &tiles[c][m][n], 4);
            for (int k = 0; k < 16; k++)
                for (int upper = 0; upper < 2; upper++)
                    sum += half_of(tiles[a][m][k], upper) * half_of(tiles[b][k][n], upper);
            memcpy(&tiles[c][m][n], &sum, 4);
        }
}

#else

#define AMX 0

#endif
