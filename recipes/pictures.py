"""Pictures of sound and speed, drawn without a display."""

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib.image
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from data.mel import MelConfig

DECIBELS = (-100.0, -10.0)  # that the colours of a spectrogram span
Curve = list[tuple[float, float, float, float]]  # points: seconds of audio; samples a second: median, least, greatest


def draw_mels(path: Path, mels: dict[str, NDArray[np.float32]], config: MelConfig) -> None:
    """One panel per log-mel (M, L), titled by name, on one scale of colour and time.

    Writes a PNG.
    """
    figure = Figure(figsize=(11, 2.4 * len(mels)), layout="constrained")
    FigureCanvasAgg(figure)
    low, high = np.log(config.floor), max(float(mel.max()) for mel in mels.values())
    seconds = max(mel.shape[1] for mel in mels.values()) * config.hop_length / config.sample_rate
    for axes, (name, mel) in zip(
        figure.subplots(len(mels), 1, sharex=True, squeeze=False)[:, 0], mels.items(), strict=True
    ):
        end = mel.shape[1] * config.hop_length / config.sample_rate
        image = axes.imshow(
            mel, origin="lower", aspect="auto", extent=(0, end, 0, config.n_mels), vmin=low, vmax=high, cmap="magma"
        )
        axes.set_title(name, parse_math=False)  # names of files may hold $
        axes.set(ylabel="mel band", xlim=(0, seconds))
    axes.set_xlabel("seconds")
    figure.colorbar(image, ax=figure.axes, label="ln magnitude")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_spectrograms(path: Path, wavs: Mapping[str, NDArray[np.float32]], sample_rate: int) -> None:
    """One panel per waveform (T,), titled by name, up to half the rate, on one scale of colour and time.

    Writes a PNG.
    """
    figure = Figure(figsize=(11, 2.4 * len(wavs)), layout="constrained")
    FigureCanvasAgg(figure)
    seconds = max(len(wav) for wav in wavs.values()) / sample_rate
    panels = figure.subplots(len(wavs), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, wav) in zip(panels, wavs.items(), strict=True):
        extent = (0, len(wav) / sample_rate, 0, sample_rate / 2000)
        low, high = DECIBELS
        image = axes.imshow(
            _decibels(wav), origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap="magma"
        )
        axes.set_title(name, parse_math=False)
        axes.set(ylabel="kHz", xlim=(0, seconds))
    axes.set_xlabel("seconds")
    figure.colorbar(image, ax=figure.axes, label="dB of full scale")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def spectrogram(wav: NDArray[np.float32], height: int = 160) -> bytes:
    """The picture alone of `draw_spectrograms`, without axes, as a PNG."""
    decibels = _decibels(wav)[::-1]  # (F, frames), the highest first
    rows = np.linspace(0, len(decibels), height + 1).astype(int)[:-1]
    buffer = io.BytesIO()
    low, high = DECIBELS
    shrunk = np.maximum.reduceat(decibels, rows)
    matplotlib.image.imsave(buffer, shrunk, vmin=low, vmax=high, cmap="magma", format="png")
    return buffer.getvalue()


def _decibels(wav: NDArray[np.float32]) -> NDArray[np.float64]:
    """(T,) -> (F, frames): Hann windows of 1024 samples every 256; a full-scale sine reaches 0."""
    padded = np.pad(wav.astype(np.float64), 512)
    window = np.hanning(1025)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, 1024)[::256] * window
    magnitude = np.abs(np.fft.rfft(frames)).T / (window.sum() / 2)
    return 20 * np.log10(np.maximum(magnitude, 1e-7))


def draw_speeds(path: Path, speeds: dict[str, float], sample_rate: int) -> None:
    """Samples a second, one bar a sampler on a logarithmic axis, with real time marked. Writes a PNG."""
    figure = Figure(figsize=(9, 1 + 0.5 * len(speeds)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    bars = axes.barh(list(speeds), list(speeds.values()), color="#4477aa")
    axes.bar_label(bars, labels=[f"{speed:,.0f}" for speed in speeds.values()], padding=4)
    axes.axvline(sample_rate, color="#cc3311", linestyle="--", label=f"real time, {sample_rate} Hz")
    axes.set(xscale="log", xlabel="samples per second", xlim=(None, 8 * max(*speeds.values(), sample_rate)))
    axes.invert_yaxis()
    axes.legend(loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_curves(path: Path, curves: Mapping[str, Curve], marks: Mapping[str, float]) -> None:
    """Samples a second by seconds of audio, with the extremes of every point, and marks of others across.

    Both axes are logarithmic. Writes a PNG.
    """
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, points in curves.items():
        x, y, low, high = (np.array(column) for column in zip(*sorted(points), strict=True))
        axes.errorbar(x, y, yerr=[y - low, high - y], marker="o", capsize=3, label=name)
    for place, (name, rate) in enumerate(sorted(marks.items(), key=lambda mark: mark[1])):
        left = place % 2 == 1  # neighbours on either side, for they may lie on each other
        align = "left" if left else "right"
        axes.axhline(rate, color="#bbbbbb", linewidth=0.8, zorder=0)
        axes.annotate(
            name, (0.0 if left else 1.0, rate), xycoords=("axes fraction", "data"), fontsize=7, ha=align, va="bottom"
        )
    axes.set(xscale="log", yscale="log", xlabel="seconds of audio", ylabel="samples per second")
    figure.legend(loc="outside right upper", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_shares(path: Path, shares: Mapping[str, Mapping[str, float]]) -> None:
    """One panel per run: percent of its time, one bar an operator. Writes a PNG."""
    sizes = [1 + 0.25 * len(parts) for parts in shares.values()]
    figure = Figure(figsize=(9, sum(sizes)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(shares), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
    for axes, (name, parts) in zip(panels, shares.items(), strict=True):
        ordered = sorted(parts.items(), key=lambda item: -item[1])
        bars = axes.barh([operator for operator, _ in ordered], [share for _, share in ordered], color="#4477aa")
        axes.bar_label(bars, fmt="%.1f %%", padding=4)
        axes.set_title(name, parse_math=False, loc="left", fontsize=10)
        axes.set_xlim(0, 115)
        axes.invert_yaxis()
    axes.set_xlabel("percent of the time")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
