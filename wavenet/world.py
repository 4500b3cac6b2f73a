"""Speech by the classical vocoder WORLD (Morise, Yokomori and Ozawa 2016), from what it measures itself."""

import math

import numpy as np
from numpy.typing import NDArray

from data.audio import resample
from data.pitch import fundamental, pyworld

FRAMES = 200  # a second
LOWEST_RATE = 16000  # Hz: D4C looks at the spectrum up to 7.9 kHz, and below this rate at memory that nobody wrote

Wave = NDArray[np.float32]  # (T,)


def resynthesise(wav: Wave, rate: int) -> Wave:
    """wav (T,) from its own F0, spectral envelope (CheapTrick) and aperiodicity (D4C), in place: (T,)."""
    if rate < LOWEST_RATE:
        higher = rate * math.ceil(LOWEST_RATE / rate)
        return resample(resynthesise(resample(wav, rate, higher), higher), higher, rate)[: len(wav)]
    world, hop = pyworld(), round(rate / FRAMES)
    contour = fundamental(np.pad(wav, (hop // 2, hop)), rate, hop).astype(np.float64)  # frame l at sample l hop
    exact, times = wav.astype(np.float64), np.arange(len(contour)) * hop / rate
    envelope = world.cheaptrick(exact, contour, times, rate)
    aperiodicity = world.d4c(exact, contour, times, rate)
    spoken = world.synthesize(contour, envelope, aperiodicity, rate, 1000 * hop / rate)
    return np.pad(spoken, (0, max(0, len(wav) - len(spoken))))[: len(wav)].astype(np.float32)
