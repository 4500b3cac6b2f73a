"""What a vocoder was asked to say and what it said both have a mel: where they differ, what it said can be mended.

One round cuts the waveform into the frames that a mel is made of, gives every band of each the gain that it lacks,
keeps all phases, and overlaps and adds (Griffin and Lim 1984, equation 6). Neighbouring frames disagree, so what comes
of it has not quite the mel asked for, and a few rounds come nearer than one, the more so if every change goes on a
little (Perraudin, Balazs and Sondergaard 2013); but the first, which is mostly of levels. Griffin and Lim's own begin
at random phases; these begin at a student's, whose harmonics, fricatives and onsets stand where they should.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.mel import MelConfig, log_bands, mel_filters

ROUNDS = 8
STEP = 1.25  # of a band's distance in nats; more than all of it, because neighbouring frames take some of it back
MOMENTUM = 0.8  # of a round's change, by which it goes on before the next round
LIMIT = 2.3  # nats that a round changes at most, 20 dB: a gain makes no speech of silence
CHUNK = 2**10  # frames at a time, so that the memory for spectra does not grow with the length
LEAST_SEEN = 1e-2  # sum of squared windows: what the frames see less of stays nearly as it is


class MelCorrection(nn.Module):
    """Waveforms -> waveforms whose log-mels are nearer to those asked for. Nothing of it is learnt or saved.

    Args:
        mel: of both.
        rounds: 0 leaves the waveform as it is.

    Raises:
        ValueError: a negative number of rounds.
    """

    window: Tensor  # (n_fft,)
    filters: Tensor  # (F, M), F = n_fft / 2 + 1
    shares: Tensor  # (M, F), of every band in the gain of a bin

    def __init__(self, mel: MelConfig, rounds: int = ROUNDS) -> None:
        super().__init__()
        if rounds < 0:
            raise ValueError(f"rounds is {rounds}, but must not be negative: 0 leaves the waveform as it is")
        self.mel, self.rounds = mel, rounds
        filters = mel_filters(mel)
        spare = mel.n_fft - mel.win_length
        window = F.pad(torch.hann_window(mel.win_length), (spare // 2, spare - spare // 2))
        self.register_buffer("window", window, False)
        self.register_buffer("filters", filters.float(), False)
        self.register_buffer("shares", _shares(filters).float(), False)

    @property
    def look_ahead(self) -> int:
        """Samples after one that it depends on, at most: a frame for the last round, its whole hops for others."""
        if not self.rounds:
            return 0
        n_fft, hop = self.mel.n_fft, self.mel.hop_length
        return (self.rounds - 1) * ((n_fft - 1) // hop * hop) + n_fft - 1

    def forward(self, wav: Tensor, mel: Tensor) -> Tensor:
        """wav (B, L hop), at the level of the sound file, and mel (B, M, L) -> (B, L hop), float32; differentiable."""
        stream, hop = CorrectionStream(self), self.mel.hop_length
        said = [
            stream.push(*part)
            for part in zip(torch.split(wav, CHUNK * hop, 1), torch.split(mel, CHUNK, 2), strict=True)
        ]
        return torch.cat([*said, stream.finish()], dim=1)

    def change(self, frames: Tensor, mel: Tensor) -> Tensor:
        """What one round adds to frames (B, n, n_fft) whose mel should be (B, M, n); windowed twice, for the sum."""
        with torch.autocast(frames.device.type, enabled=False):
            spectrum = torch.fft.rfft(frames * self.window)  # (B, n, F)
            lacking = mel - log_bands(spectrum.mT, self.filters, self.mel.floor)  # (B, M, n), nats
            gain = (STEP * lacking).clamp(-LIMIT, LIMIT).mT @ self.shares  # (B, n, F)
            return torch.fft.irfft(spectrum * gain.expm1(), self.mel.n_fft) * self.window

    def overlap(self, frames: Tensor) -> Tensor:
        """The sum of frames (B, n, n_fft), each a hop after the one before: (B, (n - 1) hop + n_fft)."""
        length = (frames.shape[1] - 1) * self.mel.hop_length + self.mel.n_fft
        return F.fold(frames.mT, (1, length), (1, self.mel.n_fft), stride=(1, self.mel.hop_length))[:, 0, 0]


class CorrectionStream:
    """A `MelCorrection` of waveforms that come bit by bit; together exactly what it says of them whole."""

    def __init__(self, correction: MelCorrection) -> None:
        self._rounds = [_Round(correction, MOMENTUM if n else 0.0) for n in range(correction.rounds)]
        self._rest = torch.empty(2, 0, 0)

    def push(self, wav: Tensor, mel: Tensor | None = None) -> Tensor:
        """More samples (B, T) and frames (B, M, n) -> what is certain now (B, T'). No sample comes before its frame."""
        wav = wav.float().expand(2, *wav.shape)
        self._rest = wav[..., :0]
        for each in self._rounds:
            wav = each.push(wav, mel)
        return wav[1]

    def finish(self) -> Tensor:
        """The rest (B, T'); every frame has its samples by now."""
        rest = self._rest
        for each in self._rounds:
            rest = each.finish(rest)
        return rest[1]


class _Round:
    """One round on its way through an utterance, whose ends are reflected as they are for a mel.

    What comes and goes is (2, B, T): what the round before said, gone on by `momentum` of its change, and as it is.
    """

    def __init__(self, correction: MelCorrection, momentum: float) -> None:
        self._own, self._momentum = correction, momentum
        self._wav: Tensor | None = None  # (2, B, T), from the next frame's first sample on
        self._mel: Tensor | None = None  # (B, M, n), from the next frame on
        self._added: Tensor | None = None  # (B, n_fft - hop), to the first samples of `_wav` by the frames before
        self._seen: Tensor | None = None  # (1, n_fft - hop), the sum of their squared windows
        self._reflected = False
        self._surplus = correction.mel.padding  # reflected samples that are still to be left out
        self._owed = 0  # samples that have come and not gone

    def push(self, wav: Tensor, mel: Tensor | None = None) -> Tensor:
        self._owed += wav.shape[2]
        self._wav = _joined(self._wav, wav)
        self._mel = self._mel if mel is None else _joined(self._mel, mel)
        self._reflect()
        return self._go(self._advance())

    def finish(self, wav: Tensor) -> Tensor:
        """What is left once the last samples (2, B, T) have come."""
        said, padding = self.push(wav), self._own.mel.padding
        assert self._wav is not None
        if not self._reflected:  # shorter than what is reflected: it goes on with silence
            self._wav = F.pad(self._wav, (0, padding + 1 - self._wav.shape[2]))
            self._reflect()
        self._wav = torch.cat([self._wav, self._wav[..., -padding - 1 : -1].flip(2)], dim=2)
        rest = self._advance()
        assert self._added is not None and self._seen is not None
        last = self._say(self._wav[..., : self._added.shape[1]], self._added, self._seen)
        return torch.cat([said, self._go(rest), self._go(last)], dim=2)

    def _reflect(self) -> None:
        """The samples before the first one, as soon as those after it are there."""
        assert self._wav is not None
        padding = self._own.mel.padding
        if not self._reflected and self._wav.shape[2] > padding:
            self._wav = torch.cat([self._wav[..., 1 : padding + 1].flip(2), self._wav], dim=2)
            self._reflected = True

    def _advance(self) -> Tensor:
        """The samples (2, B, T) before the first frame that cannot be made yet."""
        assert self._wav is not None
        n_fft, hop = self._own.mel.n_fft, self._own.mel.hop_length
        if not self._reflected or self._wav.shape[2] < n_fft or self._mel is None or not self._mel.shape[2]:
            return self._wav[..., :0]
        n = min((self._wav.shape[2] - n_fft) // hop + 1, self._mel.shape[2])
        frames = self._wav[0].unfold(1, n_fft, hop)[:, :n]  # (B, n, n_fft)
        added = self._own.overlap(self._own.change(frames, self._mel[:, :, :n]))  # (B, T + n_fft - hop), T = n hop
        seen = self._own.overlap(self._own.window.square().expand(1, n, n_fft))
        if self._added is not None and self._seen is not None:
            more = added.shape[1] - self._added.shape[1]
            added, seen = added + F.pad(self._added, (0, more)), seen + F.pad(self._seen, (0, more))
        T = n * hop
        said = self._say(self._wav[..., :T], added[:, :T], seen[:, :T])
        self._wav, self._mel = self._wav[..., T:], self._mel[:, :, n:]
        self._added, self._seen = added[:, T:], seen[:, T:]
        return said

    def _say(self, wav: Tensor, added: Tensor, seen: Tensor) -> Tensor:
        """What the round makes of wav (2, B, T)."""
        gone_on, before = wav
        now = gone_on + added / seen.clamp(min=LEAST_SEEN)
        return torch.stack([now + self._momentum * (now - before), now])

    def _go(self, said: Tensor) -> Tensor:
        """Without the samples that were reflected."""
        surplus = min(self._surplus, said.shape[2])
        self._surplus -= surplus
        said = said[..., surplus : surplus + self._owed]
        self._owed -= said.shape[2]
        return said


def _joined(before: Tensor | None, now: Tensor) -> Tensor:
    return now if before is None else torch.cat([before, now], dim=-1)


def _shares(filters: Tensor) -> Tensor:
    """(F, M) -> (M, F): a bin's gain, in nats, is the mean of its bands'.

    What no band hears stays as it is, but for bins beside the outermost bands, as that of 0 Hz: they go with those.
    """
    heard = filters.sum(dim=1).nonzero()[:, 0]  # bins
    distances = (torch.arange(len(filters))[:, None] - heard).abs()
    distance, nearest = distances.min(dim=1)
    shares = filters / filters.sum(dim=1, keepdim=True)
    return torch.where(distance[:, None] > 1, 0.0, shares[heard[nearest]]).T
