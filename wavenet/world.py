"""The classical vocoder WORLD (Morise, Yokomori and Ozawa 2016): pitch, and speech taken apart and put together."""

import warnings
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

FRAME_PERIOD = 5.0  # milliseconds

Wave = NDArray[np.float32]  # (T,)
Contour = NDArray[np.float64]  # (frames,) of 5 ms, in Hz; 0 where there is no voice


def pitch_contour(wav: Wave, rate: int) -> Contour:
    """F0 of wav (T,) at `rate` Hz, every 5 ms: DIO between 71 and 800 Hz, refined by StoneMask."""
    world, exact = _pyworld(), wav.astype(np.float64)
    coarse, times = world.dio(exact, rate, frame_period=FRAME_PERIOD)
    contour: Contour = world.stonemask(exact, coarse, times, rate)
    return contour


def resynthesise(wav: Wave, rate: int) -> Wave:
    """wav (T,) from its own F0, spectral envelope (CheapTrick) and aperiodicity (D4C), in place: (T,)."""
    world, exact = _pyworld(), wav.astype(np.float64)
    contour = pitch_contour(wav, rate)
    times = np.arange(len(contour)) * FRAME_PERIOD / 1000
    envelope = world.cheaptrick(exact, contour, times, rate)
    aperiodicity = world.d4c(exact, contour, times, rate)
    spoken = world.synthesize(contour, envelope, aperiodicity, rate, FRAME_PERIOD)
    return np.pad(spoken, (0, max(0, len(wav) - len(spoken))))[: len(wav)].astype(np.float32)


def _pyworld() -> ModuleType:
    with warnings.catch_warnings():
        # pyworld asks pkg_resources for its own version, and setuptools warns of that until it removes it
        warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
        import pyworld
    return pyworld
