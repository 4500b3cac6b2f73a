# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: N803 (capital letters name tensor sizes and compile-time constants)
"""How a clip is cut into tiles of samples between the same two frames, so that a condition costs a tile two rows.

Between the centres of two neighbouring frames, a segment, only the weight of the two changes (see
`reference.interpolate_frames`). A tile is a piece of a segment: its program reads two rows of `frames`, and its share
of their gradient is two sums, which are added up afterwards in an order that never changes.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

CONSTANT_HOP = 256  # how a clip is cut where the condition is constant

# `triton.jit` is told not to specialise kernels on them: it would compile one again for almost every length.
NUMBERS = ["L", "T", "first", "begin", "hop", "segments", "pieces"]


@dataclass(frozen=True)
class Tiles:
    """The tiles of B clips of T samples under L frames, or none (L is 0)."""

    B: int
    T: int
    L: int
    hop: int
    offset: int
    rows: int  # samples a tile, a power of two

    @classmethod
    def of(cls, hidden: Tensor, frames: Tensor | None, hop: int, offset: int, most_rows: int) -> "Tiles":
        """For hidden (B, T, ..) and frames (B, L, ..); at most `most_rows` samples a tile, and no less than 16."""
        B, T = hidden.shape[:2]
        L = 0 if frames is None else frames.shape[1]
        if L < 2:
            hop, offset = CONSTANT_HOP, 0
        return cls(B, T, L, hop, offset, max(16, min(most_rows, triton.next_power_of_2(hop))))

    @property
    def first(self) -> int:
        """The segment of the first sample, which lies between the frames `first` - 1 and `first`."""
        return (self.offset + self._shift) // self.hop

    @property
    def segments(self) -> int:
        return (self.offset + self.T - 1 + self._shift) // self.hop - self.first + 1 if self.T else 0

    @property
    def pieces(self) -> int:
        return triton.cdiv(self.hop, self.rows)

    @property
    def count(self) -> int:
        return self.B * self.segments * self.pieces

    @property
    def _shift(self) -> int:
        return (self.hop + 1) // 2

    def arguments(self) -> dict[str, Tensor | int | None]:
        """What `locate` and `condition` need: where the first segment begins is never after sample 0."""
        begin = self.first * self.hop - self._shift - self.offset
        numbers = (self.L, self.T, self.first, begin, self.hop, self.segments, self.pieces)
        return dict(zip(NUMBERS, numbers, strict=True))

    def frames_grad(self, sums: Tensor) -> Tensor:
        """From every tile's two sums (count, 2, C), of the left and of the right frame: (B, L, C)."""
        C = sums.shape[-1]
        edges = sums.view(self.B, self.segments, self.pieces, 2, C).sum(dim=2)  # (B, segments, 2, C)
        if self.L == 1:
            return edges.sum(dim=(1, 2))[:, None]
        # Row l + 1 is frame l; the rows before and after them are the edges, which repeat the first and the last frame.
        grad = sums.new_zeros(self.B, self.L + 2, C)
        grad[:, self.first : self.first + self.segments] += edges[:, :, 0]
        grad[:, self.first + 1 : self.first + self.segments + 1] += edges[:, :, 1]
        grad[:, 1] += grad[:, 0]
        grad[:, -2] += grad[:, -1]
        return grad[:, 1:-1]


@triton.jit
def locate(tile, T, first, begin, hop, segments, pieces, ROWS: tl.constexpr):
    """Clip, left frame, samples (ROWS,), which of them exist, and the weights of their right frames."""
    segment = tile // pieces % segments
    within = tile % pieces * ROWS + tl.arange(0, ROWS)
    t = begin + segment * hop + within
    weight = (within + tl.where(hop % 2 == 0, 0.5, 0.0)) / hop
    return tile // (pieces * segments), first + segment - 1, t, (within < hop) & (t >= 0) & (t < T), weight


@triton.jit
def condition(bias, frames, L, clip, left, weight, channel, exists, WIDTH: tl.constexpr):
    """bias + frames between `left` and `left` + 1, clamped: (ROWS, CHANNELS), or (1, CHANNELS) without frames."""
    row = tl.zeros([channel.shape[0]], tl.float32)
    if bias is not None:
        row += tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
    row = row[None, :]
    if frames is not None:
        first = frames + clip.to(tl.int64) * L * WIDTH + channel
        before = tl.load(first + tl.minimum(tl.maximum(left, 0), L - 1) * WIDTH, mask=exists, other=0.0).to(tl.float32)
        after = tl.load(first + tl.minimum(tl.maximum(left + 1, 0), L - 1) * WIDTH, mask=exists, other=0.0)
        row = row + (before[None, :] + (after.to(tl.float32) - before)[None, :] * weight[:, None])
    return row


@triton.jit
def gate(filtered, gating):
    """tanh and sigmoid of two tiles in float32, by two exponentials and one division.

    The clamps keep the product of the denominators finite: beyond them tanh is 1 and a sigmoid is below 1e-17. What is
    not a number stays so.
    """
    e = tl.exp(-2.0 * tl.clamp(filtered, -15.0, 15.0, propagate_nan=tl.PropagateNan.ALL))
    f = tl.exp(-tl.clamp(gating, -40.0, 40.0, propagate_nan=tl.PropagateNan.ALL))
    inverse = 1.0 / ((1.0 + e) * (1.0 + f))
    return (1.0 - e) * (1.0 + f) * inverse, (1.0 + e) * inverse


@triton.jit
def gate_grad(grad, tanh, sigmoid):
    """Of tanh x sigmoid, with respect to what each of them is taken of."""
    return grad * sigmoid * (1.0 - tanh * tanh), grad * tanh * sigmoid * (1.0 - sigmoid)


@triton.jit
def store_sums(sums, grad, weight, channel, exists, WIDTH: tl.constexpr):
    """The gradients of a tile's left and right frame, from its samples' gradients (ROWS, CHANNELS), 0 where none is."""
    right = weight[:, None]
    tl.store(sums + channel, tl.sum(grad * (1.0 - right), axis=0), mask=exists)
    tl.store(sums + WIDTH + channel, tl.sum(grad * right, axis=0), mask=exists)
