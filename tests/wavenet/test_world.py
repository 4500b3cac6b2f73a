"""WORLD: speech resynthesised in place."""

import os
import subprocess
import sys

import numpy as np
import pytest

from data.audio import resample
from data.espeak import speak
from wavenet.world import resynthesise


@pytest.fixture(scope="module")
def speech():
    return speak("The quick brown fox jumps over the lazy dog.", "en-us")


def test_the_resynthesis_is_as_long_and_loud_as_the_original(speech):
    wav, rate = speech
    for length in (len(wav), len(wav) - 61, 700):
        spoken = resynthesise(wav[:length], rate)
        assert spoken.shape == (length,) and spoken.dtype == np.float32
    assert resynthesise(wav, rate).std() == pytest.approx(wav.std(), rel=0.3)


def test_the_resynthesis_is_not_shifted_in_time(speech):
    """By less than half of a frame of 5 ms: a burst of noise stays where it is, and so does a sentence's envelope."""
    wav, rate = speech
    burst = 1e-4 * np.random.default_rng(0).standard_normal(rate).astype(np.float32)
    burst[10000:10040] *= 3000
    energy = resynthesise(burst, rate).astype(np.float64) ** 2
    assert abs((energy * np.arange(rate)).sum() / energy.sum() - 10020) / rate < 2.5e-3
    smooth = np.hanning(rate // 20)
    envelopes = [
        np.sqrt(np.convolve(x.astype(np.float64) ** 2, smooth, "same")) for x in (wav, resynthesise(wav, rate))
    ]
    a, b = (envelope - envelope.mean() for envelope in envelopes)
    spectrum = np.fft.rfft(b, 2 * len(b)) * np.fft.rfft(a, 2 * len(a)).conj()
    delay = int(np.fft.irfft(spectrum).argmax())
    delay -= 2 * len(a) * (delay > len(a))
    assert abs(delay) / rate < 2.5e-3


@pytest.mark.parametrize("rate", [8000, 11025, 22050])
def test_the_resynthesis_depends_on_the_sound_alone(speech, rate, tmp_path):
    """D4C by itself, below 16 kHz, reads memory that nobody wrote: glibc can fill it, each time with something else."""
    np.save(tmp_path / "wav.npy", resample(*speech, rate)[:rate])
    program = "import sys, numpy; from wavenet.world import resynthesise; wav = numpy.load(sys.argv[1]); "
    program += "numpy.save(sys.argv[3], resynthesise(wav, int(sys.argv[2])))"
    spoken = []
    for filled in ("0", "77"):
        given = [tmp_path / "wav.npy", str(rate), tmp_path / f"{filled}.npy"]
        env = os.environ | {"MALLOC_PERTURB_": filled}
        subprocess.run([sys.executable, "-c", program, *given], env=env, check=True)
        spoken.append(np.load(given[2]))
    np.testing.assert_array_equal(*spoken)
    assert spoken[0].shape == (rate,)
