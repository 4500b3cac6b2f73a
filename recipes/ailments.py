"""What each failure of a student sounds like, made of recordings: what the thresholds of `distill.health` are set by.

    python -m recipes.ailments DATA [--clips N] [--split valid]

prints the figures of recordings, of good resyntheses of them, and of each failure, and the verdict on each.
"""

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from data.dataset import SILENCE_PEAK, PreparedCorpus
from data.manifest import Entry
from distill.health import audible, diagnose, examine
from recipes.cli import report_errors
from recipes.configuration import ConfigError
from recipes.provenance import provenance, table
from wavenet.metrics import griffin_lim

CEPSTRUM_SECONDS = 0.0015  # of the envelope: finer structure is the pitch's
SHOWN = ("level_db", "liveliness", "following", "periodicity", "hiss_db", "offset", "floor_db")  # verdicts rest on them


def whisper(wav: Tensor, rate: int, seed: int = 0) -> Tensor:
    """wav (T,) with its spectral envelope and level, and noise for a voice."""
    size = 2 ** round(math.log2(0.025 * rate))
    window = torch.hann_window(size)

    def spectrum(signal: Tensor) -> Tensor:
        return torch.stft(signal, size, size // 4, window=window, pad_mode="constant", return_complex=True)

    cepstrum = torch.fft.irfft((spectrum(wav).abs() + 1e-5).log(), dim=0)  # (size, frames)
    kept = math.ceil(CEPSTRUM_SECONDS * rate)
    cepstrum[kept : size - kept + 1] = 0
    envelope = torch.fft.rfft(cepstrum, dim=0).real.exp()
    noise = torch.randn(wav.shape, generator=torch.Generator().manual_seed(seed))
    said = torch.istft(envelope * spectrum(noise), size, size // 4, window=window, length=len(wav))
    return said * _rms(wav) / _rms(said)


def hiss(wav: Tensor, rate: int, decibels: float, seed: int = 0) -> Tensor:
    """wav (T,) and, over all of it, noise above 4 kHz so many dB above the level of wav."""
    return wav + _noise(wav, rate, (min(4000, rate / 4), rate), seed) * 10 ** (decibels / 20)


def rumble(wav: Tensor, rate: int, decibels: float, seed: int = 0) -> Tensor:
    """wav (T,) and, over all of it, noise from 20 to 100 Hz so many dB above the level of wav."""
    return wav + _noise(wav, rate, (20, 100), seed) * 10 ** (decibels / 20)


def muffle(wav: Tensor, rate: int, decibels: float) -> Tensor:
    """wav (T,) with its level above 4 kHz, or a quarter of the sampling rate, changed by so many dB."""
    spectrum = torch.fft.rfft(wav)
    spectrum[torch.fft.rfftfreq(len(wav), 1 / rate) >= min(4000, rate / 4)] *= 10 ** (decibels / 20)
    return torch.fft.irfft(spectrum, n=len(wav))


def offset(wav: Tensor, share: float) -> Tensor:
    """wav (T,) and a constant, in units of the level of wav."""
    return wav + share * _rms(wav)


def hum(wav: Tensor, rate: int) -> Tensor:
    """A steady tone at the level of wav (T,), with the noise of a quiet room."""
    t = torch.arange(len(wav)) / rate
    tone = sum((torch.sin(2 * math.pi * 120 * k * t) / k for k in (1, 2, 3)), torch.zeros(()))
    room = 1e-3 * torch.randn(wav.shape, generator=torch.Generator().manual_seed(0))
    return (tone / _rms(tone) + room) * _rms(wav)


def other(wav: Tensor, another: Tensor) -> Tensor:
    """Another clip, (T,) as wav: repeated, or cut short."""
    return another.repeat(math.ceil(len(wav) / len(another)))[: len(wav)]


def explode(wav: Tensor, seed: int = 0) -> Tensor:
    """Noise of scale 1 in place of wav (T,)."""
    return torch.logit(torch.rand(wav.shape, generator=torch.Generator().manual_seed(seed)), eps=1e-6)


def _noise(wav: Tensor, rate: int, band: tuple[float, float], seed: int) -> Tensor:
    """Noise in a band, Hz, at the level of wav (T,)."""
    spectrum = torch.fft.rfft(torch.randn(wav.shape, generator=torch.Generator().manual_seed(seed)))
    frequency = torch.fft.rfftfreq(len(wav), 1 / rate)
    spectrum[(frequency < band[0]) | (frequency > band[1])] = 0
    noise = torch.fft.irfft(spectrum, n=len(wav))
    return noise * _rms(wav) / _rms(noise)


def _rms(wav: Tensor) -> Tensor:
    return wav.square().mean().sqrt()


def versions(corpus: PreparedCorpus, split: str, clips: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """The first recordings (T,) of a split that are not silent, and all that is made of each.

    Raises:
        ConfigError: fewer than two.
    """
    recordings = list(islice(_recordings(corpus, split), clips))
    if len(recordings) < 2:
        raise ConfigError(
            f"split {split!r} has too few recordings that are not silent: {len(recordings)}, but one is compared with "
            "another; choose another split"
        )
    rate = corpus.mel.sample_rate
    for n, (entry, wav) in enumerate(recordings):
        said = torch.from_numpy(griffin_lim(corpus.mel_of(entry), corpus.mel))
        wav = wav[: len(said)]
        yield (
            wav,
            {
                "original": wav,
                "original, 3 dB quieter": wav / math.sqrt(2),
                "Griffin-Lim": said,
                "hiss at -40 dB": hiss(wav, rate, -40),
                "hiss at -25 dB": hiss(wav, rate, -25),
                "30 dB less above 4 kHz": muffle(wav, rate, -30),
                "constant of its level": offset(wav, 1.0),
                "rumble at -10 dB": rumble(wav, rate, -10),
                "30 dB quieter": wav / 10**1.5,
                "whisper": whisper(wav, rate),
                "another clip": other(wav, recordings[n - 1][1]),
                "hum": hum(wav, rate),
                "noise of scale 1": explode(wav),
            },
        )


def _recordings(corpus: PreparedCorpus, split: str) -> Iterator[tuple[Entry, Tensor]]:
    """Those that are not silent, (T,), at the level of the sound file."""
    for entry in corpus.entries(split):
        wav = torch.from_numpy(corpus.wav(entry) / np.float32(corpus.gain))
        if audible(wav[None], SILENCE_PEAK / corpus.gain):
            yield entry, wav


def judged(corpus: PreparedCorpus, split: str, clips: int) -> dict[str, list[dict[str, float]]]:
    """The figures of every version of every recording."""
    figures: dict[str, list[dict[str, float]]] = {}
    for wav, said in versions(corpus, split, clips):
        for name, version in said.items():
            found = examine(version[None], wav[None], corpus.mel.sample_rate, SILENCE_PEAK / corpus.gain)
            figures.setdefault(name, []).append(found)
    return figures


def report(figures: dict[str, list[dict[str, float]]]) -> str:
    """Least and greatest figure over the clips, and the verdicts with their counts."""
    rows = [["", *SHOWN, "verdict"]]
    for name, clips in figures.items():
        cells = [[clip[key] for clip in clips] for key in SHOWN]
        verdicts = [diagnose(clip).name for clip in clips]
        said = ", ".join(f"{verdict} ({verdicts.count(verdict)})" for verdict in dict.fromkeys(verdicts))
        rows.append([name, *(f"{min(cell):.2f} to {max(cell):.2f}" for cell in cells), said])
    return table(rows)


def main(
    data: Annotated[Path, typer.Argument(help="Prepared corpus.")],
    clips: Annotated[int, typer.Option(min=2)] = 10,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "valid",
) -> None:
    """Figures and verdicts of recordings, resyntheses and failures."""
    print(report(judged(PreparedCorpus(data), split, clips)))
    print("\n" + ", ".join(f"{name} {value}" for name, value in provenance("cpu").items()))


if __name__ == "__main__":
    with report_errors():
        typer.run(main)
