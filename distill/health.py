"""Is a distillation healthy? What the student says against the same speech recorded, and what to do if they differ.

The loss is no witness: it falls while the audio whispers. These are: how loud, how periodic and how lively the speech
is, whether it follows the recording, and what lies in the bands and the pauses. `examine` measures, `diagnose` judges.
Every threshold lies between recordings that were resynthesised well and the same recordings spoilt on purpose:
`recipes/ailments.py` makes them, README.md has their figures.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data.dataset import SILENCE_PEAK
from distill.losses.power import power_spectrogram
from distill.student import Base

WINDOW_SECONDS = 0.046
LOWEST, HIGHEST = 75.0, 400.0  # Hz, of the pitch: three periods of the lowest are in a window
EDGES = (0, 500, 1000, 2000, 4000, 8000)  # Hz; the last band ends at half the sampling rate
HISS_EDGE = 4000.0  # Hz, or a quarter of the sampling rate if that is lower
SILENCE = 1e-8  # of the recording's mean power: levels are not told apart below -80 dB
ROOM = 1e-6  # of the same: nobody hears in a pause what lies below -60 dB
QUIETEST = 0.05  # share of the frames that make the silence floor
JUDGED = (
    "level_db", "noise_db", "offset", "liveliness", "following", "periodicity", "hiss_db", "floor_db"
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What ails the student, by what it is known, and what helps."""

    name: str
    sign: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.sign}" + (f"; {self.remedy}" if self.remedy else "")


HEALTHY = Verdict("healthy", "level, pitch, movement, high band and pauses are those of speech")
EXPLODING = Verdict(
    "exploding scale",
    "it is far louder than the recording",
    "start again from the corpus' scale with a lower optim.lr, the spectral terms first (losses.kl.begin)",
)
NOT_A_NUMBER = Verdict(
    "not a number",
    "a figure of it is none",
    "go back to a checkpoint whose weights are finite, with a lower optim.lr or dtype=float32",
)
TOO_QUIET = Verdict(
    "too quiet",
    "it is far quieter than the recording",
    "start again from the corpus' scale, or raise losses.power.frame_weight, which holds the level",
)
COLLAPSE = Verdict(
    "collapse",
    "the sound hardly changes in time",
    "early in a run go on; else draw more (losses.kl.draws=100), raise losses.power.frame_weight, or distil a Gaussian "
    "teacher",
)
IGNORING = Verdict(
    "ignoring the mel",
    "it moves as speech does, but not as this recording",
    "set losses.contrastive.weight=0.3, and train the teacher with input_noise=0.1, so that it listens itself",
)
WHISPERING = Verdict(
    "whispering",
    "where the recording has a pitch it has next to none",
    "train longer, condition on the pitch, or raise losses.power.frame_weight against losses.kl.weight",
)
HISS = Verdict(
    "hiss",
    "there is more above 4 kHz than in the recording, frame by frame",
    "train longer, raise losses.power.high_weight, or speak at a lower temperature",
)
MUFFLED = Verdict(
    "muffled",
    "there is less above 4 kHz than in the recording, frame by frame",
    "train longer, or raise losses.power.high_weight",
)
OFFSET = Verdict(
    "offset",
    "its mean is not that of the recording",
    "train longer, or raise losses.power.mean_weight, which sees a constant in the lowest bin",
)
RUMBLE = Verdict(
    "rumble",
    "its pauses are louder than those of the recording",
    "train teacher and student longer, raise losses.power.low_weight, or speak at a lower temperature",
)


def diagnose(figures: Mapping[str, float]) -> Verdict:
    """The first thing to put right, by the figures of `examine`, of one batch or means over many.

    They come in the order in which one hides the next: what hums follows no mel, what does not follow has no pitch
    where it should, and a hiss or a constant fills the pauses.
    """
    ailments = (
        (max(figures["level_db"], figures.get("noise_db", -math.inf)) > 10, EXPLODING),
        (any(math.isnan(figures[name]) for name in JUDGED if name in figures), NOT_A_NUMBER),
        (figures["level_db"] < -10, TOO_QUIET),
        (figures["liveliness"] < 0.4, COLLAPSE),
        (figures["following"] < 0.55, IGNORING),
        (figures["periodicity"] < 0.7, WHISPERING),
        (figures["hiss_db"] > 4, HISS),
        (figures["hiss_db"] < -8, MUFFLED),
        (abs(figures["offset"]) > 0.1, OFFSET),
        (figures["floor_db"] > 10, RUMBLE),
    )
    return next((verdict for ails, verdict in ailments if ails), HEALTHY)


@torch.no_grad()
def examine(said: Tensor, real: Tensor, rate: int, silence_peak: float = SILENCE_PEAK) -> dict[str, float]:
    """What distinguishes the student's waveforms (B, T) from the recordings (B, T), aligned sample by sample.

    Recordings that are silent, as a crop may be, are left out: they have no level to compare with.

    Args:
        rate: Hz.
        silence_peak: a recording with nothing above it is silent; in the unit of `real`. SILENCE_PEAK is of the
            network's waveform: give SILENCE_PEAK / gain with waveforms at the level of the sound file.

    Returns:
        nothing where all recordings are silent, else
        level_db, magnitude_db: root mean square, and mean of |x|, over the recording's
        offset: mean of x less that of the recording, over the recording's root mean square
        periodicity: of the speech where the recording is loud, over the recording's own
        liveliness: how far the levels of the bands swing in time, over the recording's
        following: correlation of these swings with the recording's
        hiss_db: level above 4 kHz over the recording's, frame by frame
        floor_db: level of the quietest 5 % of the frames over the recording's
        spectral: mean of |ln |X| - ln |Y||
        band_A_db: mean level of the band from A Hz to the next one, over the recording's

    Raises:
        ValueError: shapes that differ, or are not (B, T).
    """
    if said.dim() != 2 or said.shape != real.shape:
        raise ValueError(f"said is {tuple(said.shape)}, real {tuple(real.shape)}: give two of one shape (B, T)")
    heard = audible(real, silence_peak)
    if not heard.any():
        return {}
    said, real = said[heard], real[heard]
    window = 2 ** round(math.log2(WINDOW_SECONDS * rate))
    short = max(0, window - said.shape[1])
    said, real = (F.pad(wav.float(), (0, short)) for wav in (said, real))
    powers = power_spectrogram(said, window), power_spectrogram(real, window)  # (B, frames, F)
    loudness, pitched = _periodicity(real, window, rate)
    figures = {
        "level_db": _decibels(said.square().mean(), real.square().mean()),
        "magnitude_db": 2 * _decibels(said.abs().mean(), real.abs().mean()),
        "offset": (said.mean() - real.mean()) / real.square().mean().sqrt().clamp(min=1e-9),
        "periodicity": (loudness * _periodicity(said, window, rate)[1]).sum()
        / (loudness * pitched).sum().clamp(min=1e-12),
        "spectral": 0.5 * (powers[0] / powers[1]).log().abs().mean(),
        **_movements(*powers, rate),
    }
    return {name: float(value) for name, value in figures.items()}


@torch.no_grad()
def examine_scales(log_scale: Tensor, real: Tensor, base: Base) -> dict[str, float]:
    """Moments of the student's log scales (B, T), and how loud the noise is that they let in; as `examine`, without the
    clips whose recording is silent. All is of the network's waveform.

    Returns:
        nothing where all recordings are silent, else
        log_scale, log_scale_spread, log_scale_most: mean, standard deviation, maximum
        noise_db: mean of |x - loc|, over the mean of the recording's |x| (B, T)
    """
    heard = audible(real)
    if not heard.any():
        return {}
    log_scale, real = log_scale[heard], real[heard]
    magnitude = 2 * math.log(2) if base is Base.logistic else math.sqrt(2 / math.pi)  # E|z|
    figures = {
        "log_scale": log_scale.mean(),
        "log_scale_spread": log_scale.std(),
        "log_scale_most": log_scale.max(),
        "noise_db": 2 * _decibels(magnitude * log_scale.exp().mean(), real.abs().mean()),
    }
    return {name: float(value) for name, value in figures.items()}


def audible(real: Tensor, silence_peak: float = SILENCE_PEAK) -> Tensor:
    """Which recordings (B, T) are not silent: (B,). The peak is in their unit, as that of `examine`."""
    return real.abs().amax(dim=1) > silence_peak


def _periodicity(wav: Tensor, window: int, rate: int) -> tuple[Tensor, Tensor]:
    """Power of every frame of wav (B, T), and the greatest autocorrelation at a period of the voice: (B, frames) each.

    The autocorrelation of the windowed frame over that of the window (Boersma 1993), 1 for a steady period.
    """
    hann = torch.hann_window(window, device=wav.device)
    frames = wav.unfold(-1, window, window // 4)
    frames = (frames - frames.mean(dim=-1, keepdim=True)) * hann  # (B, frames, window)
    correlation = _autocorrelation(frames) / _autocorrelation(hann)  # (B, frames, window)
    periods = correlation[..., round(rate / HIGHEST) : round(rate / LOWEST) + 1]
    power = correlation[..., 0]
    return power, (periods.amax(dim=-1) / power.clamp(min=1e-12)).clamp(0, 1)


def _autocorrelation(frames: Tensor) -> Tensor:
    """(..., N) -> (..., N), lags from 0."""
    size = frames.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(frames, 2 * size).abs().square())[..., :size]


def _movements(said: Tensor, real: Tensor, rate: int) -> dict[str, Tensor]:
    """What power spectrograms (B, frames, F) say of bands in time; a batch is taken as one long clip."""
    silence, room = (share * real.sum(dim=-1).mean() for share in (SILENCE, ROOM))
    powers = [_bands(power, rate) for power in (said, real)]  # (B, frames, bands)
    levels = [_decibels(power + silence) for power in powers]
    swings = [level - level.mean(dim=(0, 1)) for level in levels]
    spread = [swing.square().mean(dim=(0, 1)).sqrt() for swing in swings]  # (bands,)
    both = swings[0].square().sum() * swings[1].square().sum()
    quiet = [_quietest(_decibels(power.sum(dim=-1) + room)) for power in powers]
    hiss = [_decibels(power[..., _bin(min(HISS_EDGE, rate / 4), power, rate) :].sum(dim=-1) + room)
            for power in (said, real)]  # fmt: skip
    bands = _decibels(*(power.mean(dim=(0, 1)) + silence for power in powers))
    return {
        "liveliness": spread[0].mean() / spread[1].mean().clamp(min=1e-9),
        "following": (swings[0] * swings[1]).sum() / both.sqrt().clamp(min=1e-9),
        "hiss_db": (hiss[0] - hiss[1]).mean(),
        "floor_db": quiet[0] - quiet[1],
        **{f"band_{edge}_db": level for edge, level in zip(EDGES, bands, strict=False)},
    }


def _bands(power: Tensor, rate: int) -> Tensor:
    """(B, frames, F) -> (B, frames, bands)"""
    edges = [_bin(edge, power, rate) for edge in EDGES if edge < rate / 2]
    return torch.stack(
        [power[..., low:high].sum(dim=-1) for low, high in zip(edges, [*edges[1:], None], strict=True)], dim=-1
    )


def _bin(hertz: float, power: Tensor, rate: int) -> int:
    return round(hertz / rate * 2 * (power.shape[-1] - 1))


def _quietest(levels: Tensor) -> Tensor:
    flat = levels.flatten()
    return flat.sort().values[: math.ceil(QUIETEST * len(flat))].mean()


def _decibels(power: Tensor, over: Tensor | None = None) -> Tensor:
    level = 10 * power.clamp(min=1e-30).log10()
    return level if over is None else level - _decibels(over)
