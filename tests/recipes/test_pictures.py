"""Pictures are drawn without a display, whatever the figures and the names."""

import io
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from data.mel import MelConfig
from recipes.pictures import draw_curves, draw_mels, draw_shares, draw_spectrograms, draw_speeds, spectrogram


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_panel_per_mel(tmp_path: Path, toy_mel: MelConfig, count: int) -> None:
    floor = np.log(toy_mel.floor)
    mels = {f"$clip_{n}$ {{": np.full((20, 30 + n), floor + n, np.float32) for n in range(count)}
    draw_mels(tmp_path / "new" / "mels.png", mels, toy_mel)
    height = matplotlib.image.imread(tmp_path / "new" / "mels.png").shape[0]
    assert height == pytest.approx(264 * count, abs=2)


@pytest.mark.parametrize("count", [1, 3])
def test_a_panel_per_waveform(tmp_path: Path, count: int) -> None:
    wavs = {f"$clip_{n}$ {{": np.zeros(4000 + n, np.float32) for n in range(count)}
    draw_spectrograms(tmp_path / "new" / "waves.png", wavs, 8000)
    height = matplotlib.image.imread(tmp_path / "new" / "waves.png").shape[0]
    assert height == pytest.approx(264 * count, abs=2)


def test_a_spectrogram_shows_where_and_when_a_tone_is() -> None:
    tone = np.zeros(8000, np.float32)
    tone[4000:] = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000)
    picture = matplotlib.image.imread(io.BytesIO(spectrogram(tone, height=80)))[..., :3].mean(axis=2)
    assert picture.shape == (80, 32)
    assert picture[:, 20:].mean(axis=1).argmax() == pytest.approx(60, abs=1)  # a quarter of the way up
    assert picture[:, :12].max() < 0.1


@pytest.mark.parametrize("speeds", [{"one": 3.0}, {"slow": 0.5, "fast": 4e7}])
def test_speeds_however_far_apart(tmp_path: Path, speeds: dict[str, float]) -> None:
    draw_speeds(tmp_path / "new" / "speeds.png", speeds, 8000)
    assert matplotlib.image.imread(tmp_path / "new" / "speeds.png")[..., :3].std() > 0.05


def test_curves_of_any_order_among_marks(tmp_path: Path) -> None:
    curves = {"$one": [(10.0, 5e4, 4e4, 6e4), (1.0, 3e4, 3e4, 3e4)], "two": [(1.0, 7.0, 6.0, 8.0)]}
    draw_curves(tmp_path / "new" / "lengths.png", curves, {"other": 1e6, "same": 1e6})
    assert matplotlib.image.imread(tmp_path / "new" / "lengths.png")[..., :3].std() > 0.05


def test_a_panel_of_shares_per_run(tmp_path: Path) -> None:
    one = {"product": 80.0, "others": 20.0}
    heights = []
    for count in (1, 3):
        draw_shares(tmp_path / "shares.png", {f"$run {n}": one for n in range(count)})
        heights.append(matplotlib.image.imread(tmp_path / "shares.png").shape[0])
    assert heights[1] == pytest.approx(3 * heights[0], abs=2)
