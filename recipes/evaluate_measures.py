"""All that `wavenet evaluate` measures of a clip, and what it makes of many clips: means, intervals, tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from data.audio import Wave
from data.dataset import SILENCE_PEAK
from data.mel import MelConfig, log_mel
from data.pitch import fundamental
from distill.health import diagnose, examine
from recipes.evaluate_clips import Clip
from recipes.provenance import table
from wavenet import metrics
from wavenet.metrics import MeasureError


@dataclass(frozen=True)
class Measure:
    """A column of the table."""

    label: str
    digits: int
    best: str  # what a reader should hope for
    meaning: str


PITCH_SECONDS = 0.005  # from frame to frame
TIMING = "of a checkpoint alone, with all threads; of a baseline with one thread, beside others unless --workers is 0"
BANDS = {  # Hz
    "band_0_1": (0, 1000),
    "band_1_2": (1000, 2000),
    "band_2_4": (2000, 4000),
    "band_4_8": (4000, 8000),
    "band_8_11": (8000, 11000),
}
QUALITY = {
    "pesq": Measure("PESQ-wb", 2, "high, to 4.64", "predicted opinion score, ITU-T P.862.2, at 16 kHz"),
    "stoi": Measure("STOI", 3, "high, to 1", "short-time objective intelligibility, at 10 kHz"),
    "log_mel_l1": Measure("log-mel L1 (nats)", 3, "low", "mean distance to the log-mel that the voice was given"),
    "mcd": Measure("MCD (dB)", 2, "low", "mel-cepstral distortion, coefficients 1 to 13, where there is speech"),
    "stft": Measure("STFT distance", 3, "low", "spectral convergence and log magnitude, windows of 512, 1024, 2048"),
    "f0": Measure("F0 (cents)", 1, "low", "median error of the pitch, where both are voiced (DIO, StoneMask)"),
    "voicing": Measure("voicing error", 3, "low", "share of the frames that are voiced in one of the two only"),
    "high_band": Measure("> 4 kHz (dB)", 2, "near 0", "energy above 4 kHz, over that of the original"),
    "floor": Measure("floor (dB)", 2, "near 0", "level of the quietest 5 % of the frames, over that of the original"),
    "bits": Measure("bits per 16-bit sample", 2, "low", "of the recording, by a teacher's likelihood"),
}
SPECTRUM = {
    key: Measure(f"{low // 1000}-{high // 1000} kHz (dB)", 2, "near 0", "energy of the band, over that of the original")
    for key, (low, high) in BANDS.items()
}
MEASURES = QUALITY | SPECTRUM


@dataclass
class Figures:
    """Of one clip by one voice: values by the keys of MEASURES, and why there are no others."""

    values: dict[str, float]
    missing: dict[str, str]
    health: dict[str, float] = field(default_factory=dict)  # `distill.health.examine`


@dataclass
class Estimate:
    """A mean over clips and its 95 % interval."""

    mean: float | None  # None: of no clip
    low: float | None  # None: fewer than two clips
    high: float | None
    clips: int  # that have a value
    missing: int  # that have none


@dataclass
class Row:
    """One line of the table. What does not apply to a voice has no estimate."""

    name: str
    kind: str  # original, baseline, student, teacher
    estimates: dict[str, Estimate]
    real_time_factor: float | None = None
    verdict: str = ""  # of a student: what ails it, and the remedy


def judge(clip: Clip, wav: Wave, mel: MelConfig, gain: float) -> Figures:
    """Everything but bits, of a waveform (L hop,) that says the clip again, at the level of the sound file.

    Args:
        gain: the network's waveform is the file's times this: whether the clip is silent is said of the network's.
    """
    reference, rate = clip.wav, mel.sample_rate
    contours = [fundamental(one, rate, hop=round(PITCH_SECONDS * rate)) for one in (reference, wav)]
    measures: dict[str, Callable[[], float]] = {
        "pesq": partial(metrics.pesq_wb, reference, wav, rate),
        "stoi": partial(metrics.stoi, reference, wav, rate),
        "log_mel_l1": lambda: metrics.log_mel_distance(log_mel(torch.from_numpy(wav), mel).numpy(), clip.mel),
        "mcd": partial(metrics.mel_cepstral_distortion, reference, wav, rate),
        "stft": partial(metrics.stft_distance, reference, wav),
        "f0": partial(metrics.pitch_error, *contours),
        "voicing": partial(metrics.voicing_error, *contours),
        "high_band": partial(metrics.band_difference, reference, wav, rate, 4000),
        "floor": lambda: metrics.silence_floor(wav, rate) - metrics.silence_floor(reference, rate),
    }
    for key, band in BANDS.items():
        measures[key] = partial(metrics.band_difference, reference, wav, rate, *band)
    said, real = (torch.from_numpy(np.asarray(one))[None] for one in (wav, reference))
    figures = Figures({}, {}, examine(said, real, rate, SILENCE_PEAK / gain))
    for key, measure in measures.items():
        try:
            figures.values[key] = measure()
        except MeasureError as reason:
            figures.missing[key] = str(reason)
    return figures


def estimate(values: Sequence[float], missing: int, seed: int) -> Estimate:
    """Of the clips that have a value."""
    low, high = metrics.bootstrap_interval(values, seed) if len(values) > 1 else (None, None)
    return Estimate(float(np.mean(values)) if len(values) else None, low, high, len(values), missing)


def summarise(name: str, kind: str, clips: list[Figures], real_time_factor: float | None, seed: int) -> Row:
    """The row of a voice that said all clips."""
    keys = [key for key in MEASURES if any(key in clip.values or key in clip.missing for clip in clips)]
    estimates = {
        key: estimate(
            [clip.values[key] for clip in clips if key in clip.values], sum(key in clip.missing for clip in clips), seed
        )
        for key in keys
    }
    health = [clip.health for clip in clips if clip.health] if kind == "student" else []
    means = {key: float(np.mean([one[key] for one in health])) for key in (health[0] if health else {})}
    return Row(name, kind, estimates, real_time_factor, str(diagnose(means)) if means else "")


def row_from_json(row: dict[str, Any]) -> Row:
    """What `dataclasses.asdict` made of a Row."""
    return Row(**{**row, "estimates": {key: Estimate(**value) for key, value in row["estimates"].items()}})


def cells(row: Row, measures: dict[str, Measure]) -> list[str]:
    """The row's estimates as text: mean and half of the interval; empty where a measure does not apply."""
    return [_cell(row.estimates.get(key), measure.digits) for key, measure in measures.items()]


def report(rows: list[Row]) -> str:
    """The rows as tables: quality and speed, then the energy of the bands; what ails the students."""
    quality = _columns(rows, QUALITY)
    speeds = ["" if row.real_time_factor is None else f"{row.real_time_factor:.2f}" for row in rows]
    lines = [[row.name, *cells(row, quality), speed] for row, speed in zip(rows, speeds, strict=True)]
    tables = [table([["", *(measure.label for measure in quality.values()), "x real time"], *lines])]
    if any(row.kind == "baseline" and row.real_time_factor for row in rows):
        tables.append(f"x real time: {TIMING}")
    if spectrum := _columns(rows, SPECTRUM):
        lines = [[row.name, *cells(row, spectrum)] for row in rows if row.estimates.keys() & spectrum.keys()]
        tables.append(table([["", *(measure.label for measure in spectrum.values())], *lines]))
    tables += [f"{row.name}: {row.verdict}" for row in rows if row.verdict]
    return "\n\n".join(tables)


def _columns(rows: list[Row], measures: dict[str, Measure]) -> dict[str, Measure]:
    """Those of which any row has a figure."""
    return {key: measure for key, measure in measures.items() if any(key in row.estimates for row in rows)}


def _cell(value: Estimate | None, digits: int) -> str:
    if value is None:
        return ""
    parts = ["none" if value.mean is None else f"{value.mean:.{digits}f}"]
    if value.low is not None and value.high is not None:
        parts.append(f"± {(value.high - value.low) / 2:.{digits}f}")
    if value.missing:
        parts.append(f"({value.missing} missing)")
    return " ".join(parts)
