"""Sound files: mono float32 waveforms in [-1, 1], shape (T,)."""

import io
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import torch

from data.atomic import write_atomic

Wave = npt.NDArray[np.float32]

PCM_SCALE = 32768  # 16-bit samples are k / 32768, as soundfile reads them
# Of the formats that libsndfile reads, their further names too; raw samples have no header to say what they are.
SOUND_SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"}
SOUND_SUFFIXES |= {".aif", ".oga", ".opus", ".snd"}
UNKNOWN_LENGTH = 0x7FFFF000  # programs that write a WAV into a pipe leave this much, or more, in its header


class AudioError(ValueError):
    """A sound file, or a waveform, that cannot be used; the message names it, the rule and the remedy."""


def read_audio(path: str | os.PathLike[str]) -> tuple[Wave, int]:
    """Read any format that libsndfile knows (WAV, FLAC, OGG, MP3, ...); channels are averaged.

    Returns:
        The waveform (T,) and its sampling rate in Hz.

    Raises:
        AudioError: the file is missing, empty, no sound file, shorter than its header says, or holds NaN or infinity.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"{path}: there is no such file; check the path")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes); copy or record it again")
    _check_length(path)
    try:
        with soundfile.SoundFile(path) as file:
            frames, rate = file.frames, file.samplerate
            wav = file.read(dtype="float32", always_2d=True).mean(axis=1, dtype=np.float32)  # (T, channels) -> (T,)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw
        raise AudioError(
            f"{path}: not a readable sound file ({error}); convert it to WAV or FLAC, or leave it out"
        ) from error
    if len(wav) < frames:
        raise AudioError(_truncated(path, f"{frames} samples", f"{len(wav)}"))
    if len(wav) == 0:
        raise AudioError(f"{path}: the file holds no samples; record it again or leave it out")
    if not np.isfinite(wav).all():
        raise AudioError(f"{path}: {(~np.isfinite(wav)).sum()} samples are NaN or infinite; export it again")
    return wav, rate


def resample(wav: Wave, rate: int, new_rate: int) -> Wave:
    """Band-limited resampling of (T,) to ceil(T new_rate / rate) samples.

    A Kaiser-windowed sinc of 64 zero crossings, the parameters of resampy's `kaiser_best`: the pass band is flat up to
    0.9 of the lower Nyquist frequency and images lie about 90 dB down.
    """
    if rate == new_rate:
        return wav
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
    buffer = io.BytesIO()  # libsndfile does not report a full disk, Python's own write does
    soundfile.write(buffer, to_pcm(wav), rate, format="WAV", subtype="PCM_16")
    write_atomic(Path(path), buffer.getvalue())


def _check_length(path: Path) -> None:
    """libsndfile reads a truncated WAV or AIFF without a word: compare its chunk of samples with the file."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:] == b"WAVE":
            order: Literal["little", "big"] = "little"
            wanted = b"data"
        elif head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
            order, wanted = "big", b"SSND"
        else:
            return
        while len(header := file.read(8)) == 8:
            size = int.from_bytes(header[4:], order)
            if header[:4] == wanted:
                present = path.stat().st_size - file.tell()
                if present < size < UNKNOWN_LENGTH:
                    raise AudioError(_truncated(path, f"{size} bytes of samples", f"{present}"))
                return
            file.seek(size + size % 2, os.SEEK_CUR)  # chunks start at even offsets
    raise AudioError(_truncated(path, f"a chunk {wanted.decode()!r}", "none"))


def _truncated(path: Path, promised: str, present: str) -> str:
    return f"{path}: truncated: its header promises {promised}, the file holds {present}; copy it again"
