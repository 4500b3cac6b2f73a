"""Pitch as a condition: sine and cosine of the running phase of F0, and whether there is a voice, at sample rate.

Parallel WaveNet conditions on log-F0; the running phase spares a network the integral of it (neural source-filter
models, arXiv 1904.12088). All of it is a function of the condition alone, so every density stays exact.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavenet.conditioning import LOOK_AHEAD, standardised, window_of

CHANNELS = 3  # sine, cosine, voicing
LOOK_BACK = 6  # frames that the head reads before the one it speaks of; LOOK_AHEAD after it
TURN = 2**56  # units of phase in a turn: whole numbers add up exactly, in any order and over any length
_FRAMES = 1024  # whose samples are worked on at a time


def excitation(
    f0: Tensor, hop: int, length: int, offset: int = 0, phase: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sine and cosine of the phase, and the voicing, of the samples `offset .. offset + length` of these frames.

    Frame l is centred at sample (l + 1/2) hop. F0 is interpolated between the centres of two voiced frames and held
    beyond the outermost ones; the phase of a sample is 2 pi times its sum over the samples before. Voiced is what is
    nearest to a voiced frame: elsewhere all three are zero.

    Args:
        f0: (B, L), periods a sample; 0 where there is no voice. Edge frames go on beyond both ends.
        hop: samples per frame.
        phase: (B,), of the first sample, in TURNs; 0 if None.

    Returns:
        (B, length, CHANNELS) float32, and the phase (B,) of the sample that follows. Pieces, each begun at the phase
        where the one before ended, are the whole, bit for bit.
    """
    steps = _steps(f0, hop, offset, length)
    ends = steps.cumsum(dim=1) + (0 if phase is None else phase[:, None])
    return _waves(ends - steps, f0, hop, offset), ends[:, -1] % TURN


def recorded_excitation(wav: Tensor, f0: Tensor, hop: int, margin: int = 0) -> Tensor:
    """The `excitation` whose cosine goes with the fundamental of a recording, and not just as fast as that.

    A network then learns where in a period every harmonic stands, which a running phase begun anywhere cannot tell it.
    One that speaks has no recording to go by, and may begin where it likes.

    Args:
        wav: (B, T), T = (L - 2 margin) hop.
        f0: (B, L), as in `excitation`.
        margin: frames on each side beyond the waveform.

    Returns:
        (B, T, CHANNELS) float32
    """
    T = wav.shape[1]
    steps = _steps(f0, hop, margin * hop, T)
    running, inside = steps.cumsum(dim=1) - steps, f0[:, margin : margin + T // hop]
    behind = _behind(wav, _waves(running, inside, hop, 0).double(), hop)  # (B, L)
    left, right, weight = _between_centres(inside, hop, 0, T)
    begin, end = _either(behind[:, left], behind[:, right], inside[:, left] > 0, inside[:, right] > 0)
    way = end - begin
    lag = begin + (way - way.round()) * weight  # the shorter way round
    return _waves(running + (lag * TURN).round().long(), inside, hop, 0)


def _behind(wav: Tensor, waves: Tensor, hop: int) -> Tensor:
    """Turns (B, L) that waves (B, L hop, CHANNELS) are behind the fundamental of wav (B, L hop) at the frames' centres.

    That of the product of the two, under a Hann window of four frames.
    """
    size, before = 4 * hop + 1, 2 * hop - hop // 2
    window = torch.hann_window(size, periodic=False, dtype=torch.float64, device=wav.device)
    products = F.pad(wav[:, None].double() * waves[..., :2].mT, (before, 3 * hop - before + 1))  # (B, 2, ...)
    sine, cosine = (products.unfold(2, size, hop) @ window).unbind(dim=1)
    return torch.atan2(-sine, cosine) / (2 * math.pi)


def _waves(phase: Tensor, f0: Tensor, hop: int, offset: int) -> Tensor:
    """Phases (B, length), in TURNs, of the samples from `offset` on -> (B, length, CHANNELS) float32."""
    angle = (phase % TURN).double() * (2 * math.pi / TURN)
    frame = torch.arange(offset, offset + phase.shape[1], device=f0.device) // hop
    voiced = f0[:, frame.clamp(0, f0.shape[1] - 1)] > 0
    return (torch.stack([angle.sin(), angle.cos(), torch.ones_like(angle)], dim=-1) * voiced[..., None]).float()


def _steps(f0: Tensor, hop: int, offset: int, length: int) -> Tensor:
    """How far the phase goes on after each sample, (B, length), in TURNs; sums may overflow, by whole turns."""
    left, right, weight = _between_centres(f0, hop, offset, length)
    exact = f0.double()
    begin, end = _either(exact[:, left], exact[:, right], f0[:, left] > 0, f0[:, right] > 0)
    return ((begin + (end - begin) * weight) * TURN).round().long()


def _between_centres(f0: Tensor, hop: int, offset: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The frames whose centres are next to every sample, and how near the second one is (`interpolate_frames`)."""
    t, last = torch.arange(offset, offset + length, device=f0.device) + (hop + 1) // 2, f0.shape[1] - 1
    weight = (t % hop + (0.0 if hop % 2 else 0.5)).double() / hop
    return (t // hop - 1).clamp(0, last), (t // hop).clamp(0, last), weight


def _either(left: Tensor, right: Tensor, left_voiced: Tensor, right_voiced: Tensor) -> tuple[Tensor, Tensor]:
    """Both where both have a voice, else the one that has, twice."""
    return torch.where(left_voiced, left, right), torch.where(right_voiced, right, left)


class Excitation:
    """The `excitation` of whole utterances, any part of it at a time; what is kept grows with the frames alone.

    Args:
        f0, hop: as there.
    """

    def __init__(self, f0: Tensor, hop: int) -> None:
        self._f0, self._hop = f0, hop
        blocks = [range(first, min(first + _FRAMES, f0.shape[1])) for first in range(0, f0.shape[1], _FRAMES)]
        steps = [_steps(f0, hop, block.start * hop, len(block) * hop) for block in blocks]
        ends = torch.cat([each.view(len(f0), -1, hop).sum(dim=2) for each in steps], dim=1).cumsum(dim=1)
        self._starts = F.pad(ends, (1, 0))[:, :-1]  # (B, L), the phase of every frame's first sample

    def __call__(self, start: int, stop: int) -> Tensor:
        """Samples start .. stop, 0 <= start < stop: (B, stop - start, CHANNELS); the last frame goes on."""
        frame = min(start // self._hop, self._f0.shape[1] - 1)
        begin = frame * self._hop
        return excitation(self._f0, self._hop, stop - begin, begin, self._starts[:, frame])[0][:, start - begin :]


class PitchHead(nn.Module):
    """What a mel says of its pitch: (B, M, L) -> ln F0, in periods a sample, and the log-odds of a voice, (B, L) each.

    It looks no further ahead than the context network does, so that it adds no delay to a stream.

    Args:
        n_mels: bands.
        channels: of its two convolutions over five frames.
    """

    def __init__(self, n_mels: int, channels: int = 128) -> None:
        super().__init__()
        self.first = nn.Conv1d(n_mels, channels, kernel_size=5)
        self.second = nn.Conv1d(channels, channels, kernel_size=5)
        self.last = nn.Conv1d(channels, 2, kernel_size=1)
        assert self.last.bias is not None
        with torch.no_grad():
            self.last.bias.copy_(torch.tensor([math.log(150 / 22050), 0.0]))  # between men's voices and women's

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        return self._read(F.pad(mel, (LOOK_BACK, LOOK_AHEAD), mode="replicate"))

    def losses(self, mel: Tensor, f0: Tensor, counted: slice) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the voicing, and mean distance of ln F0 where there is a voice, nats, in some frames.

        Args:
            mel: (B, M, L)
            f0: (B, L), as in `excitation`.
            counted: the frames; the others are read only.
        """
        with torch.autocast(mel.device.type, enabled=False):
            log_f0, odds = (heard[:, counted] for heard in self(mel.float()))  # (B, l)
            known = f0[:, counted]
            voiced = (known > 0).to(odds)
            distance = (log_f0 - known.clamp(min=1e-9).log()).abs() * voiced
            voicing = F.binary_cross_entropy_with_logits(odds, voiced)
            return voicing, distance.sum() / voiced.sum().clamp(min=1)

    def f0(self, mel: Tensor) -> Tensor:
        """(B, M, L) -> (B, L), for `excitation`; takes no gradient. In float64, for phases add up small errors."""
        L = mel.shape[2]
        return torch.cat([self.window(mel, at, min(at + _FRAMES, L)) for at in range(0, L, _FRAMES)], dim=1)

    @torch.no_grad()
    def window(self, mel: Tensor, start: int, stop: int) -> Tensor:
        """Frames start .. stop of `f0`, at the cost of these alone; the first and the last frame go on."""
        reads, frames = window_of(mel, start, stop, LOOK_BACK, LOOK_AHEAD)
        with torch.autocast(mel.device.type, enabled=False):
            log_f0, odds = self._read(mel[:, :, reads].double())
        return torch.where(odds > 0, log_f0.exp().clamp(max=0.5), 0.0)[:, frames]

    def _read(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        """mel (B, M, LOOK_BACK + L + LOOK_AHEAD) -> as `forward`, in its dtype"""
        hidden = standardised(padded)
        for conv in (self.first, self.second):
            hidden = F.leaky_relu(_convolved(hidden, conv), 0.4)
        log_f0, odds = _convolved(hidden, self.last).unbind(dim=1)
        return log_f0, odds


def _convolved(x: Tensor, conv: nn.Conv1d) -> Tensor:
    assert conv.bias is not None
    return F.conv1d(x, conv.weight.to(x), conv.bias.to(x))


def check_pitch(pitch: bool, n_mels: int) -> None:
    """Refuses pitch without a mel to hear it in.

    Raises:
        ValueError: `pitch` where `n_mels` is 0.
    """
    if pitch and not n_mels:
        raise ValueError("pitch is true, but is heard in a mel and n_mels is 0: give the model a mel, or pitch=false")


def excite(
    head: PitchHead | None,
    mel: Tensor | None,
    f0: Tensor | None,
    hop: int,
    margin: int = 0,
    recording: Tensor | None = None,
) -> Tensor | None:
    """The input layers' excitation (B, T, CHANNELS) of a window; None for a model without pitch.

    Args:
        mel: (B, M, L) with (L - 2 margin) hop = T.
        f0: (B, L), as in `excitation`; what the head hears in the mel if None.
        margin: frames on each side beyond the waveform.
        recording: (B, T), of which `f0` was measured, for the phase of its fundamental; else the phase begins at 0.

    Raises:
        ValueError: neither a mel nor F0.
    """
    if head is None:
        return None
    if f0 is None and mel is None:
        raise ValueError("this model is conditioned on pitch, but there is neither a mel nor F0: pass mel")
    if f0 is not None and recording is not None:
        return recorded_excitation(recording, f0, hop, margin)
    f0 = head.f0(mel) if f0 is None and mel is not None else f0
    assert f0 is not None
    return excitation(f0, hop, (f0.shape[1] - 2 * margin) * hop, margin * hop)[0]
