"""Mel frames in, waveform out, as they come: together exactly what one pass over the whole mel says."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.correction import CorrectionStream, MelCorrection
from distill.stream import ChainStream, PackedChain, can_stream
from distill.student import Student
from wavenet.conditioning import MARGIN
from wavenet.kernels.backend import Backend, forced_backend
from wavenet.pitch import LOOK_BACK, excitation

LOOK_AHEAD = MARGIN  # mel frames beyond a frame that its samples are made from
FIRST_PIECE = 512  # samples: the first piece comes soon, the others double
LARGEST_PIECE = 2**12  # with the layers' states carried on; so long may the next utterance have to wait
LARGEST_AGAIN = 2**15  # where every piece begins a receptive field early


class StreamingStudent:
    """A student made ready to speak piece by piece; any number of streams shares it.

    On a CPU the layers' states go on from piece to piece (`distill.stream`). Elsewhere every piece is computed from a
    receptive field before it.
    """

    def __init__(self, student: Student, gain: float, dtype: torch.dtype, correction: MelCorrection) -> None:
        self.student = student
        self.gain = gain
        self.correction = correction
        self.hop = student.config.hop_length
        self.weight = next(student.parameters())
        self.dtype = dtype
        carries = can_stream(student.chain.sequence, self.weight) and forced_backend() is not Backend.reference
        self.packed = PackedChain(student.chain.sequence, dtype is torch.bfloat16) if carries else None
        self.largest = LARGEST_PIECE if carries else LARGEST_AGAIN
        self.reach = 0 if carries else student.receptive_field

    @torch.no_grad()
    def advance(self, streams: Sequence["VocoderStream"]) -> list[Tensor]:
        """The next piece (T,) of every stream, all of them of this student and with something ready.

        The first ones are empty, as long as the correction is certain of nothing.
        """
        pieces = [stream.take() for stream in streams]
        if self.packed is None:
            made = self._batch(pieces)
        else:
            made = [stream.carry_on(self.packed, piece) for stream, piece in zip(streams, pieces, strict=True)]
        return [stream.correct(x / self.gain) for stream, x in zip(streams, made, strict=True)]

    def _batch(self, pieces: Sequence["Piece"]) -> list[Tensor]:
        """Without carried states: rows may be of any length, since what comes later does not matter."""
        width, frames = max(len(piece.z) for piece in pieces), max(_frames(piece.cond) for piece in pieces)
        z = torch.stack([F.pad(piece.z, (0, width - len(piece.z))) for piece in pieces])  # (B, T)
        conds = [piece.cond for piece in pieces if piece.cond is not None]
        cond = (
            torch.cat([F.pad(each, (0, 0, 0, frames - each.shape[1])) for each in conds]) if conds else None
        )  # (B, L, context)
        given = [piece.excitation for piece in pieces if piece.excitation is not None]
        excited = torch.stack([F.pad(each, (0, 0, 0, width - len(each))) for each in given]) if given else None
        with torch.autocast(z.device.type, self.dtype, enabled=self.dtype != torch.float32):
            x = self.student.chain(z, cond, self.hop, None, excited)[0].float()
        return [row[piece.before : len(piece.z)] for row, piece in zip(x, pieces, strict=True)]


@dataclass
class Piece:
    """What a piece of waveform is made from."""

    z: Tensor  # (before + T,)
    before: int  # samples that are computed for those after them
    cond: Tensor | None  # (1, L, context), from the frame before the first sample's; of one frame, if it is constant
    excitation: Tensor | None  # (before + T, 3), of a student with pitch


class VocoderStream:
    """One utterance: `push` what there is of the mel, and get what is now certain of the waveform; then `finish`.

    The student makes a frame's samples from it and the LOOK_AHEAD frames after it; the correction then waits for some
    more samples (`MelCorrection.look_ahead`). Besides the layers' states only what is still needed is kept, so an
    utterance may go on for ever. Not to be used by two threads at a time.

    Made by `Vocoder.begin`.
    """

    def __init__(self, student: StreamingStudent, seed: int, temperature: float, speaker: Tensor | None) -> None:
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature is {temperature}, but must be finite and not negative: 1 is the model's own")
        student.student.noise(seed, 0, 0)  # refuses a seed that is none
        self.student = student
        self._seed, self._temperature, self._speaker = seed, temperature, speaker
        self._state: ChainStream | None = None
        self._mel: Tensor | None = None  # (1, M, L), of which frame 0 is frame `_first` of the utterance
        self._first = 0
        self._fresh: list[Tensor] = []  # (1, M, n), what has come since
        self.frames = 0  # of mel that have come in
        self._ended = False
        self._size = FIRST_PIECE
        self._phase: Tensor | None = None  # (1,), of the next sample
        self._excited: Tensor | None = None  # (n, 3), of the samples before it that are still needed
        self._correction = CorrectionStream(student.correction)
        self._asked: list[Tensor] = []  # (1, M, n), frames that the correction has not got yet
        self.made = 0  # samples, by the student
        self.samples = 0  # said so far

    @property
    def ready(self) -> int:
        """Samples that the student can make from what has come in."""
        known = self.frames if self._ended else self.frames - LOOK_AHEAD
        return max(0, known * self.student.hop - self.made)

    @property
    def done(self) -> bool:
        return self._ended and self.ready == 0

    def append(self, mel: Tensor) -> None:
        """More frames (M, n), without computing anything."""
        assert not self._ended
        self._fresh.append(mel[None].to(self.student.weight.device, torch.float32))
        self._asked.append(self._fresh[-1])
        self.frames += mel.shape[1]

    def end(self) -> None:
        """There are no more frames; also allowed twice.

        Raises:
            ValueError: there was not one.
        """
        if not self.frames:
            raise ValueError("the mel has zero frames; give at least one")
        self._ended = True

    def push(self, mel: Tensor) -> Tensor:
        """More frames (M, n) -> the samples (T,) that they make certain, T >= 0."""
        self.append(mel)
        return self._all()

    def finish(self) -> Tensor:
        """The rest (T,) of the utterance, whose mel ends here."""
        self.end()
        return self._all()

    def pieces(self) -> Iterator[Tensor]:
        """What is ready, computed a piece at a time: small ones first, each of a size that is used again next time."""
        while self.ready:
            piece = self.student.advance([self])[0]
            if len(piece):
                yield piece

    def _all(self) -> Tensor:
        return torch.cat([torch.empty(0, device=self.student.weight.device), *self.pieces()])

    def take(self) -> Piece:
        """What the next piece is made from; it then counts as made."""
        self._gather()
        own, hop, start = self.student, self.student.hop, self.made
        stop = start + min(self.ready, self._size)
        begin = max(0, start - own.reach) // hop * hop if own.reach else start
        z = (self._temperature * own.student.noise(self._seed, begin, stop - begin)).to(own.weight)
        frames = begin // hop - 1 - self._first, (stop - 1) // hop + 2 - self._first
        cond = own.student.conditioner.window(self._mel, self._speaker, *frames)
        piece = Piece(z, start - begin, cond, self._excite(start, stop, start - begin))
        self.made, self._size = stop, min(2 * self._size, own.largest)
        return piece

    def _gather(self) -> None:
        """What is still needed of the mel, and what has come, as one."""
        if not self._fresh:
            return
        if self._mel is not None:
            needed = (self.made - self.student.reach) // self.student.hop - 2 - LOOK_BACK
            spare = min(max(0, needed - self._first), self._mel.shape[2])
            self._fresh.insert(0, self._mel[:, :, spare:])
            self._first += spare
        self._mel = torch.cat(self._fresh, dim=2)
        self._fresh.clear()

    def _excite(self, start: int, stop: int, before: int) -> Tensor | None:
        """Of the samples start - before .. stop, (before + T, 3), if the student reads pitch; the phase goes on."""
        head, hop = self.student.student.pitch, self.student.hop
        if head is None or self._mel is None:
            return None
        first = start // hop - 1
        f0 = head.window(self._mel, first - self._first, (stop - 1) // hop + 2 - self._first)
        fresh, self._phase = excitation(f0, hop, stop - start, start - first * hop, self._phase)
        known = fresh[0] if self._excited is None else torch.cat([self._excited, fresh[0]])
        self._excited = known[max(0, len(known) - self.student.reach - hop) :]
        return known[len(known) - (before + stop - start) :]

    def carry_on(self, chain: PackedChain, piece: Piece) -> Tensor:
        """What the student makes of a piece (T,), from the states that the one before left."""
        self._state = self._state or ChainStream(chain)
        cond = None if piece.cond is None else piece.cond[0]
        return self._state.advance(piece.z, cond, piece.excitation)

    def correct(self, wav: Tensor) -> Tensor:
        """The samples (T,) that are certain once the next ones, wav (T',), are made."""
        mel = torch.cat(self._asked, dim=2) if self._asked else None
        self._asked.clear()
        said = self._correction.push(wav[None], mel)
        if self.done:
            said = torch.cat([said, self._correction.finish()], dim=1)
        self.samples += said.shape[1]
        return said[0]


def _frames(cond: Tensor | None) -> int:
    return 0 if cond is None else cond.shape[1]
