"""The fundamental frequency of recorded speech, frame by frame as the mel's (pyworld: Morise, Yokomori, Ozawa 2016)."""

import warnings
from types import ModuleType

import numpy as np
import numpy.typing as npt

LOWEST, HIGHEST = 60.0, 600.0  # Hz, between which a voice is looked for


def fundamental(wav: npt.NDArray[np.float32], rate: int, hop: int) -> npt.NDArray[np.float32]:
    """F0 of wav (T,) at `rate` Hz, in Hz, 0 where there is no voice: (T // hop,), frame l centred at (l + 1/2) hop.

    By DIO, refined by StoneMask. On recorded speech Harvest calls many more frames voiced of which harmonics explain
    less than half of the energy, and takes ten times as long.
    """
    world, exact = pyworld(), wav[hop // 2 :].astype(np.float64)  # pyworld's frame l is centred at l hop
    coarse, times = world.dio(exact, rate, f0_floor=LOWEST, f0_ceil=HIGHEST, frame_period=1000 * hop / rate)
    found = world.stonemask(exact, coarse, times, rate)[: len(wav) // hop]
    return np.asarray(found, np.float32)


def pyworld() -> ModuleType:
    """The library, without the warning of setuptools that importing it brings.

    Raises:
        ValueError: it is not installed.
    """
    with warnings.catch_warnings():
        # pyworld asks pkg_resources for its own version, and setuptools warns of that until it removes it
        warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
        try:
            import pyworld as library
        except ImportError as error:
            raise ValueError(
                f"pitch is measured by pyworld, which cannot be imported ({error}): "
                "pip install 'parallel-wavenet[eval]', or leave pitch=false"
            ) from error
    return library
