"""What a corpus sounds like, band by band of its log-mel, and how far a sound is from that."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST_SECONDS = 0.5  # of sound that are judged: what is shorter is one syllable, and no corpus resembles that
_LEAST_SPREAD = 0.05  # nats; of bands that hardly move, as those of digital silence


@dataclass
class Bands:
    """Mean and standard deviation (M,) of every band over the frames of a corpus, in nats."""

    mean: list[float]
    spread: list[float]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.spread):
            raise ValueError(f"mean has {len(self.mean)} bands and spread {len(self.spread)}; both need those of a mel")
        if not all(map(math.isfinite, self.mean)):
            raise ValueError("mean holds NaN or infinity; it must be finite")
        if not all(0 < spread < math.inf for spread in self.spread):
            raise ValueError("spread holds a number that is not positive and finite")

    def divergence(self, mel: npt.NDArray[np.floating]) -> float:
        """How far the bands of a log-mel (M, L) are from the corpus', in nats a band; 0 where they are alike.

        The Kullback-Leibler divergence of the sound's normal distribution from the corpus', mean over bands: of the
        level, of the colour (a telephone) and of how much a band moves (noise, a held tone).
        """
        mean, spread = np.array(self.mean), np.array(self.spread)
        own = mel.mean(axis=1, dtype=np.float64)
        ratio = (np.maximum(mel.std(axis=1, dtype=np.float64), _LEAST_SPREAD) / spread) ** 2
        return float(np.mean(ratio + ((own - mean) / spread) ** 2 - 1 - np.log(ratio)) / 2)


def measure_bands(mels: Iterable[npt.NDArray[np.floating]]) -> Bands:
    """The bands of log-mels (M, L), each L its own, at least one frame in all."""
    frames, total, squares = 0, np.zeros(()), np.zeros(())
    for mel in mels:
        exact = mel.astype(np.float64)
        frames += exact.shape[1]
        total = total + exact.sum(axis=1)
        squares = squares + (exact**2).sum(axis=1)
    mean = total / frames
    spread = np.sqrt(np.maximum(squares / frames - mean**2, _LEAST_SPREAD**2))
    return Bands(mean.tolist(), spread.tolist())
