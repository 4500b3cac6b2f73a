"""What people watch: curves, and clips with their spectrograms, as TensorBoard events in RUN/tensorboard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from wavenet.checkpoint import writing
from wavenet.training.objective import Audition

FOLDER = "tensorboard"
DYNAMIC_RANGE = 80.0  # dB shown in a spectrogram


class Board:
    """A TensorBoard writer. What an earlier run wrote after `step`, from which this one goes on, is hidden."""

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and serving never needs it

        self._folder = run / FOLDER
        with writing(self._folder):
            self._writer = SummaryWriter(self._folder, purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with writing(self._folder):
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        with writing(self._folder):
            self._writer.add_text(name, text, step)

    def audition(self, step: int, clip: Audition) -> None:
        """The clip to listen to, and its spectrogram."""
        with writing(self._folder):
            self._writer.add_audio(clip.name, torch.from_numpy(clip.wav)[None], step, clip.sample_rate)
            picture = spectrogram_picture(clip.wav, clip.sample_rate)
            self._writer.add_image(f"{clip.name}/spectrogram", picture, step, dataformats="HWC")

    def sync(self) -> None:
        with writing(self._folder):
            self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()


def spectrogram_picture(wav: NDArray[np.float32], sample_rate: int) -> NDArray[np.uint8]:
    """The log-magnitude spectrogram of wav (T,), low frequencies at the bottom, as (height, width, 3) colours.

    Windows of about 46 ms, a quarter of that between columns; the loudest point and 80 dB below it span the colours.
    """
    from matplotlib import colormaps

    n_fft = 2 ** round(np.log2(0.046 * sample_rate))
    spectrum = torch.stft(
        torch.from_numpy(wav).float(),
        n_fft,
        n_fft // 4,
        window=torch.hann_window(n_fft),
        pad_mode="constant",  # reflection would need a clip longer than half a window
        return_complex=True,
    )  # (n_fft / 2 + 1, columns)
    level = 20.0 * spectrum.abs().clamp(min=1e-7).log10()  # dB
    brightness = 1.0 + (level - level.max()) / DYNAMIC_RANGE
    colours = colormaps["magma"](brightness.clamp(min=0.0).flip(0).numpy(), bytes=True)  # (height, width, 4)
    return np.ascontiguousarray(colours[:, :, :3])
