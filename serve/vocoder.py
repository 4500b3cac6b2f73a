"""From a mel-spectrogram, or a sound, to a waveform in one parallel pass of the student, or as the mel comes."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.audio import resample
from data.bands import LEAST_SECONDS, Bands
from data.mel import LogMel, MelConfig, MelError, check_mel
from distill.correction import ROUNDS, MelCorrection
from distill.student import Student, load_student
from serve.streaming import LOOK_AHEAD, StreamingStudent, VocoderStream
from serve.voices import find_checkpoint
from wavenet.checkpoint import CheckpointError
from wavenet.conditioning import speaker_index
from wavenet.device import find_device
from wavenet.pretrained import config_from, mel_config

Array = NDArray[np.floating[Any]]
LOUDEST = 10.0  # a float waveform may overshoot 1; beyond this it is no such waveform
FAR = 0.6  # nats a band: a voice's own sentences, 6 dB up or down, stay below; telephones, noise and music do not
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Vocoder:
    """A student, the mel that it understands and the level that it speaks at.

        from serve import Vocoder
        vocoder = Vocoder.from_pretrained("kathleen")
        wav = vocoder(mel)

    Attributes:
        mel: the MelConfig of every mel that goes in.
        sample_rate: Hz, of every waveform that comes out.
        speakers: names to choose from; empty for one voice.
        bands: of the speech that the voice was trained on, if its checkpoint tells.
        rounds: of the correction that brings what the student says nearer to its mel; see `distill.correction`.
        look_ahead: mel frames after one that its samples are made from.
    """

    def __init__(
        self,
        student: Student,
        mel: MelConfig,
        gain: float,
        speakers: list[str],
        device: str,
        dtype: str,
        bands: Bands | None = None,
        rounds: int = ROUNDS,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}: choose one of {', '.join(DTYPES)}")
        self.mel = mel
        self.sample_rate = mel.sample_rate
        self.speakers = speakers
        self.bands = bands
        self.device = find_device(device)
        self._dtype = DTYPES[dtype]
        self._gain = gain
        self._student = student.to(self.device)
        self._log_mel = LogMel(mel).to(self.device)
        self.rounds = rounds
        self._correction = MelCorrection(mel, rounds).to(self.device)
        self.look_ahead = LOOK_AHEAD + -(-self._correction.look_ahead // mel.hop_length)

    @classmethod
    def from_pretrained(
        cls, checkpoint: str | Path, *, device: str = "auto", dtype: str = "float32", rounds: int = ROUNDS
    ) -> Self:
        """A vocoder from a shipped voice, or from the directory that `wavenet distill` wrote.

        Args:
            checkpoint: the name of the voice, or the directory.
            device: "auto" takes a GPU where there is one.
            dtype: "float32", or "bfloat16" for the matrix products.
            rounds: of the correction that brings what the student says nearer to its mel (`distill.correction`); 0 for
                the student alone.

        Raises:
            CheckpointError: missing, damaged, or no student.
            ValueError: no such device or dtype, or a negative number of rounds.
        """
        checkpoint = find_checkpoint(checkpoint)
        student, description = load_student(checkpoint)
        mel = mel_config(description, checkpoint)
        bands = config_from(Bands, description.bands, checkpoint) if description.bands else None
        if bands is not None and len(bands.mean) != mel.n_mels:
            raise CheckpointError(
                f"{checkpoint}: its config.json tells {len(bands.mean)} bands of a mel of {mel.n_mels}; "
                "copy the checkpoint again"
            )
        return cls(student, mel, description.gain, description.speakers, device, dtype, bands, rounds)

    @overload
    def __call__(
        self, mel: Tensor, *, seed: int = 0, temperature: float = 1.0, speaker: str | None = None
    ) -> Tensor: ...

    @overload
    def __call__(
        self,
        mel: Array | tuple[Array, int],
        *,
        seed: int = 0,
        temperature: float = 1.0,
        speaker: str | None = None,
    ) -> NDArray[np.float32]: ...

    def __call__(
        self,
        mel: Tensor | Array | tuple[Array, int],
        *,
        seed: int = 0,
        temperature: float = 1.0,
        speaker: str | None = None,
    ) -> Tensor | NDArray[np.float32]:
        """The waveform of a mel; the same seed gives the same waveform.

        Args:
            mel: (M, L) or (B, M, L) natural-log mel, NumPy or torch; or (wav, rate): the mel of a mono waveform (T,).
            seed: of the noise; utterance b of a batch takes seed + b.
            temperature: multiplies the noise.
            speaker: a name of `speakers`.

        Returns:
            (L hop,) or (B, L hop) float32 at the level of the mel's sound; a tensor on this vocoder's device for a
            tensor, else a NumPy array.

        Raises:
            MelError: a mel of the wrong shape, with NaN, zero frames, or of another MelConfig.
            ValueError: an unknown speaker, a negative seed or temperature.
        """
        if isinstance(mel, tuple):
            frames = self.mel_of(*mel)
        else:
            given = mel.detach() if isinstance(mel, Tensor) else mel
            check_mel(given, self.mel)
            frames = given if isinstance(given, Tensor) else torch.from_numpy(_plain(given))
        batch = frames.to(self.device, torch.float32)
        batch = batch if batch.ndim == 3 else batch[None]  # (B, M, L)
        wav = self._speak(batch, seed, temperature, speaker)  # (B, L hop)
        wav = wav if frames.ndim == 3 else wav[0]
        return wav if isinstance(mel, Tensor) else wav.cpu().numpy()

    def distance(self, mel: Array | Tensor) -> float | None:
        """How far a mel (M, L) is from the speech that the voice was trained on; above 1 it is hardly what it knows.

        Returns:
            None for sounds under half a second, and where the checkpoint does not tell; see `Bands.divergence`.

        Raises:
            MelError: as `__call__`.
        """
        frames = self.frames(mel)
        if self.bands is None or frames.shape[1] * self.mel.hop_length < LEAST_SECONDS * self.sample_rate:
            return None
        return self.bands.divergence(frames.cpu().numpy()) / FAR

    def begin(self, *, seed: int = 0, temperature: float = 1.0, speaker: str | None = None) -> VocoderStream:
        """An utterance whose mel comes bit by bit; see `VocoderStream`, and `__call__` for the arguments.

        Raises:
            ValueError: an unknown speaker, a negative seed or temperature.
        """
        index = speaker_index(speaker, self.speakers)
        return VocoderStream(self.streaming, seed, temperature, None if index is None else index.to(self.device))

    def stream(
        self,
        mels: Iterable[Array | Tensor],
        *,
        seed: int = 0,
        temperature: float = 1.0,
        speaker: str | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """The waveform of a mel that comes in chunks (M, n), n >= 1, as soon as it is certain.

            for wav in vocoder.stream([mel]):
                play(wav)

        Yields:
            (T,) float32, the first ones short; all of them together are what `__call__` gives for the whole mel and
            this seed, to 1e-5 of its peak (float32), for any chunks. A frame's samples need the `look_ahead` frames
            after it.

        Raises:
            MelError, ValueError: as `__call__`.
        """
        stream = self.begin(seed=seed, temperature=temperature, speaker=speaker)
        return self._pieces(stream, mels)

    def _pieces(self, stream: VocoderStream, mels: Iterable[Array | Tensor]) -> Iterator[NDArray[np.float32]]:
        for mel in mels:
            stream.append(self.frames(mel))
            yield from (piece.cpu().numpy() for piece in stream.pieces())
        stream.end()
        yield from (piece.cpu().numpy() for piece in stream.pieces())

    def frames(self, mel: Array | Tensor) -> Tensor:
        """One chunk (M, n) of a mel, checked, as `VocoderStream` takes it.

        Raises:
            MelError: not that; see `__call__`.
        """
        check_mel(mel, self.mel)
        if mel.ndim != 2:
            raise MelError(f"a chunk of a mel has the shape ({self.mel.n_mels}, n), not {tuple(mel.shape)}")
        return mel.detach() if isinstance(mel, Tensor) else torch.from_numpy(_plain(mel))

    @cached_property
    def streaming(self) -> StreamingStudent:
        """The student as streams use it; made once."""
        return StreamingStudent(self._student, self._gain, self._dtype, self._correction)

    def mel_of(self, wav: Array, rate: int) -> Tensor:
        """The mel (M, L) of a mono waveform (T,) at any sampling rate.

        Raises:
            MelError: not one-dimensional, empty, NaN or infinity, far beyond [-1, 1], shorter than a frame; a sampling
                rate that is none.
        """
        wav = _plain(wav)
        if wav.ndim != 1 or not len(wav):
            raise MelError(f"a waveform has the shape (T,), not {wav.shape}: give one channel of sound")
        if not np.isfinite(wav).all():
            raise MelError("the waveform holds NaN or infinity: give finite samples in [-1, 1]")
        if np.abs(wav).max() > LOUDEST:
            raise MelError(
                f"the waveform reaches {np.abs(wav).max():g}: scale it into [-1, 1], 16-bit samples by 1/32768"
            )
        if rate < 1 or rate != int(rate):
            raise MelError(f"the sampling rate is {rate}: give a positive whole number of Hz")
        return self._log_mel(torch.from_numpy(resample(wav, int(rate), self.sample_rate)).to(self.device))

    @torch.no_grad()
    def _speak(self, mel: Tensor, seed: int, temperature: float, speaker: str | None) -> Tensor:
        index = speaker_index(speaker, self.speakers)
        if index is not None:
            index = index.expand(len(mel)).to(self.device)
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32):
            x = self._student.generate(mel, index, seed=seed, temperature=temperature)
        return self._correction(x.float() / self._gain, mel)


def _plain(array: Array) -> NDArray[np.float32]:
    """A copy that torch takes, whatever the byte order, the strides and the flags of the original."""
    return np.array(array, np.float32, order="C")
