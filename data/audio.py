"""Sound files: mono float32 waveforms in [-1, 1], shape (T,)."""

import io
import math
import os
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import torch

from data.atomic import write_atomic
from data.containers import MissingPartError, sample_bytes, states_frames

Wave = npt.NDArray[np.float32]

PCM_SCALE = 32768  # 16-bit samples are k / 32768, as soundfile reads them
# libsndfile reads more, but does not tell half of a file of those from a whole one; nor of an MP3 without a header.
FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3")
SOUND_SUFFIXES = {f".{name.lower()}" for name in FORMATS} | {".aif", ".aifc", ".oga", ".opus", ".snd"}
BLOCK = 2**16  # samples decoded at a time
MOST_RATIO = 1_000_000  # of two rates without their common divisor: about the coefficients of a resampler


class AudioError(ValueError):
    """A sound file, or a waveform, that cannot be used; the message names it, the rule and the remedy."""


class TooLongError(AudioError):
    """A sound that goes on for longer than is asked for."""


def read_audio(path: str | os.PathLike[str]) -> tuple[Wave, int]:
    """Read a file of one of FORMATS, whatever its suffix; channels are averaged.

    Returns:
        The waveform (T,) and its sampling rate in Hz.

    Raises:
        AudioError: the file is missing, not permitted to be read, empty, no sound file, of another format, an MP3
            without a Xing or Info header, shorter than its header says, or holds NaN or infinity.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise AudioError(f"{path}: there is no such file; check the path")
        with path.open("rb") as file:
            return decode_audio(file, str(path))
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror}); mend that, or leave it out") from error


def decode_audio(file: BinaryIO, name: str, longest: float = math.inf) -> tuple[Wave, int]:
    """`read_audio` of an open file, which errors call `name`; channels are averaged block by block.

    Raises:
        AudioError: as `read_audio`.
        TooLongError: more than `longest` seconds, which are not decoded.
    """
    if file.seek(0, os.SEEK_END) == 0:
        raise AudioError(f"{name}: the file is empty (0 bytes); copy or record it again")
    _check_length(file, name)
    kinds = FORMATS if states_frames(file) else set(FORMATS) - {"MP3"}
    file.seek(0)
    try:
        with soundfile.SoundFile(file) as sound:
            if sound.format not in kinds:
                lack = " without a Xing or Info header" if sound.format in FORMATS else ""
                raise AudioError(
                    f"{name}: a truncated file of the format {sound.format}{lack} reads like a whole one, "
                    "so none is read; convert it to WAV or FLAC"
                )
            promised, rate = sound.frames, sound.samplerate
            wav = _mono(sound, name, longest * rate)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw
        raise AudioError(
            f"{name}: not a readable sound file ({_reason(error)}); convert it to WAV or FLAC, or leave it out"
        ) from error
    if len(wav) < promised:
        raise AudioError(_truncated(name, f"{promised} samples", f"{len(wav)}"))
    if len(wav) == 0:
        raise AudioError(f"{name}: the file holds no samples; record it again or leave it out")
    if not np.isfinite(wav).all():
        raise AudioError(f"{name}: {(~np.isfinite(wav)).sum()} samples are NaN or infinite; export it again")
    return wav, rate


def _mono(sound: soundfile.SoundFile, name: str, most: float) -> Wave:
    """The mean over channels, (T,)"""
    parts, samples = [np.empty(0, np.float32)], 0
    while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):  # (T, channels)
        samples += len(block)
        if samples > most:
            raise TooLongError(f"{name}: longer than {most / sound.samplerate:g} s; cut it into shorter pieces")
        parts.append(block.mean(axis=1, dtype=np.float32))
    return np.concatenate(parts)


def _reason(error: Exception) -> str:
    """What libsndfile says, without how Python shows the file object."""
    return str(getattr(error, "error_string", error))


def resample(wav: Wave, rate: int, new_rate: int) -> Wave:
    """Band-limited resampling of (T,) to ceil(T new_rate / rate) samples.

    A Kaiser-windowed sinc of 64 zero crossings, the parameters of resampy's `kaiser_best`: the pass band is flat up to
    0.9 of the lower Nyquist frequency and images lie about 90 dB down.

    Raises:
        AudioError: rates of so small a common divisor that the filter would take gigabytes, as 22 051 and 22 050 Hz.
    """
    if rate == new_rate:
        return wav
    common = math.gcd(rate, new_rate)
    if rate // common * (new_rate // common) > MOST_RATIO:
        raise AudioError(
            f"the sampling rate is {rate} Hz, and there is no short way from it to {new_rate} Hz: "
            "resample it to 16000, 22050, 44100 or 48000 Hz"
        )
    from torchaudio.functional import resample as sinc_resample  # heavy, and often not needed

    resampled = sinc_resample(
        torch.from_numpy(wav),
        rate,
        new_rate,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )
    return np.asarray(resampled.numpy(), np.float32)


def to_pcm(wav: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int16]:
    """Round to the nearest k / 32768 and clip to the 16-bit range."""
    return np.clip(np.rint(wav * PCM_SCALE), -PCM_SCALE, PCM_SCALE - 1).astype(np.int16)


def from_pcm(pcm: npt.NDArray[np.int16]) -> Wave:
    """16-bit samples to float32 in [-1, 1)."""
    return pcm.astype(np.float32) / np.float32(PCM_SCALE)


def write_wav(path: str | os.PathLike[str], wav: npt.NDArray[np.floating[Any]], rate: int) -> None:
    """Write (T,) as a mono 16-bit WAV, clipped to [-1, 1); the file appears whole or not at all.

    Raises:
        AudioError: `wav` is not of shape (T,), or holds NaN or infinity.
        OSError: the folder is missing or not writable, or the disk is full.
    """
    if wav.ndim != 1:
        raise AudioError(f"{path}: a waveform has the shape (T,), not {wav.shape}; write one channel at a time")
    if not np.isfinite(wav).all():
        raise AudioError(f"{path}: the waveform holds NaN or infinity and was not written")
    write_atomic(Path(path), encode_audio(wav, rate, "WAV"))  # libsndfile does not report a full disk, Python does


def encode_audio(wav: npt.NDArray[np.floating[Any]], rate: int, format: Literal["WAV", "FLAC"]) -> bytes:
    """The file of a mono 16-bit (T,), clipped to [-1, 1)."""
    buffer = io.BytesIO()
    soundfile.write(buffer, to_pcm(wav), rate, format=format, subtype="PCM_16")
    return buffer.getvalue()


def _check_length(file: BinaryIO, name: str) -> None:
    try:
        promised, present = sample_bytes(file) or (0, 0)
    except MissingPartError as error:
        raise AudioError(_truncated(name, str(error), "none")) from None
    if present < promised:
        raise AudioError(_truncated(name, f"{promised} bytes of samples", f"{max(0, present)}"))


def _truncated(name: str, promised: str, present: str) -> str:
    return f"{name}: truncated: its header promises {promised}, the file holds {present}; copy it again"
