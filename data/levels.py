"""How loud a corpus is: its one gain, and the two scales that models start from.

Both scales are those of a logistic distribution, natural for densities of waveforms: its mean absolute value is 2 ln 2
times the scale, its standard deviation pi / sqrt(3) times. A normal distribution as loud has that for its own scale.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.audio import PCM_SCALE

PEAK = 0.5  # of the loudest training sample after the gain: twice as loud (+6 dB) still fits into [-1, 1]
FRAME_SECONDS = 0.02
QUIET_SHARE = 0.02  # of all frames: pauses, even in a closely trimmed corpus
QUIET_MARGIN = math.log(10) / 2  # 10 dB in nats of amplitude
ROUNDING_POWER = 1 / (12 * PCM_SCALE**2)  # of the error of 16-bit samples: digital silence is no quieter than that


@dataclass
class Levels:
    """What the corpus needs to know of one waveform."""

    samples: int
    peak: float  # largest |x|
    magnitude: float  # sum of |x|
    full_scale: int  # samples at the end of the 16-bit range: clipped here or by the recording
    powers: npt.NDArray[np.float32]  # mean squares of successive frames of 20 ms


@dataclass
class CorpusLevels:
    """Constants of a corpus; the scales are those of the network's waveform, the file's times `gain`."""

    gain: float
    scale: float  # of a logistic with the corpus's mean |x|
    silence_log_scale: float  # ln of the scale of the quietest frames, less 10 dB: a floor for predicted log-scales


def measure(pcm: npt.NDArray[np.int16], sample_rate: int) -> Levels:
    """Levels of a waveform (T,)."""
    wav = pcm.astype(np.float64) / PCM_SCALE
    frame = min(len(wav), round(FRAME_SECONDS * sample_rate))
    frames = wav[: len(wav) // frame * frame].reshape(-1, frame)
    magnitude = np.abs(wav)
    return Levels(
        samples=len(wav),
        peak=float(magnitude.max()),
        magnitude=float(magnitude.sum()),
        full_scale=int(((pcm == -PCM_SCALE) | (pcm == PCM_SCALE - 1)).sum()),
        powers=np.square(frames).mean(axis=1, dtype=np.float64).astype(np.float32),
    )


def corpus_levels(train: Sequence[Levels]) -> CorpusLevels:
    """Constants from the levels of the training split, none of which is all zero."""
    gain = PEAK / max(levels.peak for levels in train)
    mean_magnitude = sum(levels.magnitude for levels in train) / sum(levels.samples for levels in train)
    powers = np.sort(np.concatenate([levels.powers for levels in train]).astype(np.float64))
    quiet = max(ROUNDING_POWER, powers[: math.ceil(QUIET_SHARE * len(powers))].mean())
    quiet_scale = gain * math.sqrt(3 * quiet) / math.pi
    return CorpusLevels(
        gain=gain,
        scale=gain * mean_magnitude / (2 * math.log(2)),
        silence_log_scale=math.log(quiet_scale) - QUIET_MARGIN,
    )
