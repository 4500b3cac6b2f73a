"""Speech out of text, without recordings: eSpeak NG from the espeakng-loader wheel, dithered and repeatable."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import espeakng_loader
import numpy as np

from data import espeak_process
from data.audio import PCM_SCALE, AudioError, Wave

LEVEL = 0.4  # eSpeak peaks near full scale; recorded speech leaves some room
DITHER = 4 / PCM_SCALE  # rms; about -78 dB, a quiet room. Exact zeros would send densities and log-scales to infinity
STRESS = "ˈˌ"
PAUSE = ""


@dataclass
class Phone:
    """A speech sound, or PAUSE."""

    name: str  # IPA without stress marks
    start: int  # its first sample


@dataclass
class Spoken:
    """What eSpeak says."""

    wav: Wave  # (T,)
    rate: int  # Hz
    phones: list[Phone]  # in order; each lasts until the next one starts


def speak(text: str, voice: str) -> tuple[Wave, int]:
    """Synthesise `text`: waveform (T,) and its sampling rate; see `pronounce`."""
    spoken = pronounce(text, voice)
    return spoken.wav, spoken.rate


def pronounce(text: str, voice: str) -> Spoken:
    """Synthesise `text`, and say which phone begins when: a pure function of both arguments.

    Args:
        voice: an eSpeak voice, or a voice and a variant: `en-us`, `en-gb-x-rp+f3`.

    Raises:
        AudioError: no such voice or variant, or a text that gives no sound.
    """
    _check_variant(voice)
    command = [sys.executable, "-I", espeak_process.__file__, voice]
    process = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if process.returncode != 0:
        reason = process.stderr.decode(errors="replace").strip() or f"exit status {process.returncode}"
        raise AudioError(f"voice {voice!r}: {reason}; `en-us`, `en-gb-x-rp`, `en-us+f3` are some that work")
    events, _, samples = process.stdout.partition(b"\n")
    if not samples:
        raise AudioError(f"eSpeak made no sound of the text {text!r}; give it words")
    speech = np.frombuffer(samples, dtype=np.int16) / PCM_SCALE * LEVEL
    seed = int.from_bytes(hashlib.sha256(f"{voice}|{text}".encode()).digest()[:8], "big")
    dither = np.random.Generator(np.random.Philox(seed)).normal(scale=DITHER, size=speech.shape)
    phones = [Phone(name.translate(dict.fromkeys(map(ord, STRESS))), start) for start, name in json.loads(events)]
    return Spoken((speech + dither).astype(np.float32), espeak_process.SAMPLE_RATE, phones)


def _check_variant(voice: str) -> None:
    """eSpeak itself passes over an unknown variant without a word."""
    variants = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    _, plus, variant = voice.partition("+")
    if plus and not (variants / variant).is_file():
        raise AudioError(f"voice {voice!r}: there is no variant {variant!r}; f1 to f5 and m1 to m8 are some that exist")
