"""What a server may be told, and what it will bear."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from distill.correction import ROUNDS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass
class ServeConfig:
    """A server.

    Args:
        checkpoints: name -> directory of a student; the first is the one that speaks unless another is asked for.
        host, port: where to listen; port 0 takes a free one.
        device, dtype, rounds: of every model; see `Vocoder.from_pretrained`.
        workers: processes, which share the cores.
        token: what clients must show; "" asks for none and closes /admin.
        max_seconds: of sound in an utterance, in and out.
        max_bytes: of a body.
        batch: utterances that take turns; those after them wait.
        queue: utterances that may wait; more are sent away.
        patience: seconds that a body, the next message of a stream, or the reading of an answer may take.
        grace: seconds that running requests are given after SIGTERM.
    """

    checkpoints: dict[str, Path] = field(default_factory=dict)
    host: str = "127.0.0.1"
    port: int = 8000
    device: str = "auto"
    dtype: str = "float32"
    rounds: int = ROUNDS
    workers: int = 1
    token: str = ""
    max_seconds: float = 60.0
    max_bytes: int = 16 * 2**20
    batch: int = 8
    queue: int = 32
    patience: float = 30.0
    grace: float = 30.0

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise ValueError("there is no checkpoint to serve: name one, as --checkpoint runs/demo/student")
        for name in self.checkpoints:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"the model name {name!r} does not fit into a URL: use letters, digits, dots, dashes and "
                    "underscores, as --checkpoint anna=runs/demo/student"
                )
        ranges = {"port": (0, 65535), "rounds": (0, 16), "workers": (1, 256), "batch": (1, 1024), "queue": (0, 10**6)}
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be from {least} to {most}")
        for name in ("max_seconds", "max_bytes", "patience", "grace"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}, but must be positive and finite")
        if self.token and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise ValueError("the token holds spaces, control or non-ASCII characters: use letters and digits")

    @property
    def capacity(self) -> int:
        """Utterances that are in the house at most."""
        return self.batch + self.queue


def named_checkpoints(given: list[str]) -> dict[str, Path]:
    """NAME=DIR or DIR, which is called by its last part, -> name -> directory.

    Raises:
        ValueError: two of one name.
    """
    checkpoints: dict[str, Path] = {}
    for entry in given:
        name, separator, directory = entry.partition("=")
        path = Path(directory if separator else entry)
        name = name if separator else path.resolve().name
        if name in checkpoints:
            raise ValueError(f"two checkpoints are called {name!r}: name them apart, as --checkpoint anna={path}")
        checkpoints[name] = path
    return checkpoints
