"""Pictures of sound, drawn without a display."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from data.mel import MelConfig


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
