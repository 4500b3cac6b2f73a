"""What the command line is given to speak: sound files, `.npy` mels, and folders of either."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.audio import SOUND_SUFFIXES

MEL = ".npy"


class InputError(ValueError):
    """An input path that cannot be used."""


@dataclass(frozen=True)
class Source:
    """One file to speak, and the stem of the file that answers it."""

    path: Path

    @property
    def is_mel(self) -> bool:
        return self.path.suffix.lower() == MEL


def find_sources(paths: list[Path]) -> list[Source]:
    """The files named, and those directly in the folders named, sorted within each folder.

    Raises:
        InputError: a path that does not exist, a folder with nothing to speak, two files of one stem.
    """
    sources = [source for path in paths for source in _under(path)]
    stems: dict[str, Path] = {}
    for source in sources:
        other = stems.setdefault(source.path.stem, source.path)
        if other != source.path:
            raise InputError(
                f"{other} and {source.path} would both be written as {source.path.stem}.wav: name them apart"
            )
    return list(dict.fromkeys(sources))


def _under(path: Path) -> Iterator[Source]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if _spoken(file))
        if not files:
            raise InputError(f"{path} holds no sound file and no .npy mel: name another folder")
        yield from map(Source, files)
    elif path.exists():
        yield Source(path)
    else:
        raise InputError(f"{path} does not exist: check the path")


def _spoken(file: Path) -> bool:
    return file.is_file() and file.suffix.lower() in SOUND_SUFFIXES | {MEL} and not file.name.startswith(".")
