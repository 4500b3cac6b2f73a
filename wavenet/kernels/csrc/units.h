/* How a clip is shared out: a unit is the samples of one batch item between the centres of two neighbouring frames. */
#pragma once
#include "gate.h"

enum { PANEL = 64, WIDEST = 512 }; /* rows that are computed together; channels of the widest layer */

typedef struct {
    long item, segment, start, stop; /* samples start..stop of the clip */
} unit;

INLINE long shift_of(long hop) { return (hop + 1) / 2; }

INLINE long units_per_clip(long length, long hop, long offset) {
    return (offset + length - 1 + shift_of(hop)) / hop - (offset + shift_of(hop)) / hop + 1;
}

INLINE unit unit_at(long index, long length, long hop, long offset) {
    long each = units_per_clip(length, hop, offset);
    unit u = {index / each, index % each + (offset + shift_of(hop)) / hop, 0, 0};
    u.start = u.segment * hop - shift_of(hop) - offset;
    u.stop = u.start + hop;
    u.start = u.start < 0 ? 0 : u.start;
    u.stop = u.stop > length ? length : u.stop;
    return u;
}

/* Gradients of the two frames around every unit, (units, 2, width), into those of the frames (batch, count, width). */
INLINE void add_up_frames(const float *around, float *frames, long batch, long length, long hop, long offset,
                          long count, long width) {
    long each = units_per_clip(length, hop, offset);
    memset(frames, 0, batch * count * width * sizeof *frames);
    for (long i = 0; i < batch * each; i++) {
        unit u = unit_at(i, length, hop, offset);
        for (long side = 0; side < 2; side++) {
            long l = u.segment - 1 + side;
            l = l < 0 ? 0 : l >= count ? count - 1 : l;
            float *y = frames + (u.item * count + l) * width;
            for (long n = 0; n < width; n++)
                y[n] += around[(2 * i + side) * width + n];
        }
    }
}
