"""The models of a server by name, exchanged all at once or not at all."""

import logging
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from serve.problems import Problem, unavailable
from serve.vocoder import Vocoder

logger = logging.getLogger("serve")
_WARMING = 100  # frames


class Models:
    """Vocoders that have been loaded and have spoken once.

    Args:
        checkpoints: name -> directory; the first is the default.
        device, dtype, rounds: see `Vocoder.from_pretrained`.
    """

    def __init__(self, checkpoints: dict[str, Path], device: str, dtype: str, rounds: int) -> None:
        self._checkpoints, self._device, self._dtype, self._rounds = checkpoints, device, dtype, rounds
        self._vocoders: dict[str, Vocoder] = {}
        self._loaded = 0.0
        self._loading = threading.Lock()

    @property
    def ready(self) -> bool:
        return bool(self._vocoders)

    def load(self) -> None:
        """Read all checkpoints, and put them in the place of what there was; takes a while, needs no event loop.

        Whoever speaks goes on with what they had.

        Raises:
            CheckpointError, ValueError: one of them cannot be used. What there was stays.
        """
        with self._loading:
            fresh = {name: self._warm(directory) for name, directory in self._checkpoints.items()}
            self._vocoders, self._loaded = fresh, time.time()
        logger.info("speaking: %s", ", ".join(fresh))

    def find(self, name: str | None) -> tuple[str, Vocoder]:
        """The model of a name, or the first one.

        Raises:
            Problem: 404 an unknown name, 503 nothing is loaded yet.
        """
        vocoders = self._vocoders
        if not vocoders:
            raise unavailable("the models are being loaded: come back in a moment")
        name = next(iter(vocoders)) if name is None else name
        if name not in vocoders:
            raise Problem(404, f"model {name[:80]!r} is unknown: choose one of {', '.join(vocoders)}")
        return name, vocoders[name]

    def describe(self) -> list[dict[str, Any]]:
        """What a client needs to know of each; `loaded` is in seconds since 1970."""
        return [
            {
                "name": name,
                "sample_rate": vocoder.sample_rate,
                "mel": asdict(vocoder.mel),
                "speakers": vocoder.speakers,
                "look_ahead": vocoder.look_ahead,
                "loaded": self._loaded,
            }
            for name, vocoder in self._vocoders.items()
        ]

    def _warm(self, directory: Path) -> Vocoder:
        """Loaded, and with everything in place that is made on first use."""
        vocoder = Vocoder.from_pretrained(directory, device=self._device, dtype=self._dtype, rounds=self._rounds)
        silence = np.full((vocoder.mel.n_mels, _WARMING), np.log(vocoder.mel.floor), np.float32)
        speaker = vocoder.speakers[0] if len(vocoder.speakers) > 1 else None
        for _ in vocoder.stream([silence], speaker=speaker):
            pass
        vocoder.mel_of(np.zeros(vocoder.sample_rate, np.float32), 2 * vocoder.sample_rate)
        return vocoder
