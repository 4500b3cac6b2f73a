"""Speech corpora as lists of utterances: a folder of recordings, LJSpeech, VCTK, and eSpeak (synthetic)."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from data.audio import SOUND_SUFFIXES, Wave, read_audio
from data.espeak import speak
from data.sentences import sentences


class CorpusError(ValueError):
    """A corpus that is not where, or not what, the config says."""


class CorpusKind(StrEnum):
    espeak = "espeak"
    folder = "folder"
    ljspeech = "ljspeech"
    vctk = "vctk"


LAYOUTS = {  # the folder that an archive unpacks, and what it holds
    CorpusKind.ljspeech: ("LJSpeech-1.1", ("metadata.csv", "wavs")),
    CorpusKind.vctk: ("VCTK-Corpus-0.92", ("wav48_silence_trimmed", "txt")),
}


@dataclass
class CorpusConfig:
    """Which corpus, and where."""

    kind: CorpusKind = CorpusKind.espeak
    root: str = ""  # folder, ljspeech, vctk: the folder that holds it
    download: bool = False  # ljspeech, vctk: fetch it into `root` if it is not there
    microphone: str = "mic1"  # vctk: mic1 or mic2
    utterances: int = 240  # espeak: this many sentences, the voices taking turns
    voices: list[str] = field(default_factory=lambda: ["en-us", "en-us+f3", "en-gb-x-rp+m3", "en-gb-scotland+f2"])
    seed: int = 0  # espeak: other sentences

    def __post_init__(self) -> None:
        if self.kind is not CorpusKind.espeak and not self.root:
            raise CorpusError(f"corpus.root is empty; a {self.kind} corpus needs its folder: corpus.root=DIR")
        if self.download and self.kind not in (CorpusKind.ljspeech, CorpusKind.vctk):
            raise CorpusError(f"corpus.download: there is nothing to download for {self.kind}; set it to false")
        if self.microphone not in ("mic1", "mic2"):
            raise CorpusError(f"corpus.microphone must be mic1 or mic2, not {self.microphone!r}")
        if self.utterances < 1 or not self.voices:
            raise CorpusError("corpus.utterances must be at least 1, and corpus.voices must name a voice")


@dataclass
class Utterance:
    """Something said, by someone; a recording, or (path None) a text for the eSpeak voice that `speaker` names."""

    id: str  # unique in its corpus, fit for a file name
    path: Path | None
    text: str
    speaker: str

    def __post_init__(self) -> None:
        self.speaker = as_text(self.speaker)  # a folder's name

    def read(self) -> tuple[Wave, int]:
        """The waveform (T,) and its sampling rate; AudioError where there is none."""
        return speak(self.text, self.speaker) if self.path is None else read_audio(self.path)


@dataclass
class Skip:
    """What was left out, and why."""

    name: str
    reason: str

    def __post_init__(self) -> None:
        self.name, self.reason = as_text(self.name), as_text(self.reason)


def as_text(name: str) -> str:
    """The name of a file, with ? for what is not UTF-8 in it: fit to be printed and written."""
    return name.encode(errors="replace").decode()


def list_corpus(config: CorpusConfig) -> tuple[list[Utterance], list[Skip]]:
    """All utterances, sorted by id, and what the corpus names but does not hold; reads no sound yet.

    Raises:
        CorpusError: the folder or its metadata is missing or of another layout, or the download failed.
        AudioError: an eSpeak voice that does not exist.
    """
    if config.kind is CorpusKind.espeak:
        utterances, skipped = _espeak(config), list[Skip]()
    else:
        listing = {CorpusKind.folder: _folder, CorpusKind.ljspeech: _ljspeech, CorpusKind.vctk: _vctk}[config.kind]
        if config.download and not _is_there(config):
            _download(config)
        if not Path(config.root).is_dir():
            raise CorpusError(f"{config.root}: there is no such folder; check corpus.root")
        utterances, skipped = listing(config)
    return sorted(utterances, key=lambda utterance: utterance.id), skipped


def _espeak(config: CorpusConfig) -> list[Utterance]:
    for voice in config.voices:
        speak("Yes.", voice)  # an unknown voice fails here, not once a sentence
    texts = sentences(config.utterances, config.seed)
    turns = [config.voices[n % len(config.voices)] for n in range(len(texts))]
    return [
        Utterance(f"{voice}_{n:05d}", None, text, voice)
        for n, (text, voice) in enumerate(zip(texts, turns, strict=True))
    ]


def _folder(config: CorpusConfig) -> tuple[list[Utterance], list[Skip]]:
    """Every sound file below the folder or, where it holds a `metadata.csv`, those that this names.

    An id is the file's stem; where stems repeat, the file's path below the folder, joined by underscores.
    """
    root = Path(config.root)
    files = _sound_files(root)
    count = Counter(path.stem for path in files)
    ids = {
        path: path.stem if count[path.stem] == 1 else "_".join(path.relative_to(root).with_suffix("").parts)
        for path in files
    }
    _check_ids(ids.values(), root)
    speaker = root.resolve().name
    if (root / "metadata.csv").is_file():
        return _with_metadata(root, ids, speaker)
    return [Utterance(ids[path], path, "", speaker) for path in files], []


def _with_metadata(root: Path, ids: dict[Path, str], speaker: str) -> tuple[list[Utterance], list[Skip]]:
    """Rows `id|text|speaker|...`, their id a file's stem, its name, or its path below the folder."""
    by_name: dict[str, set[Path]] = {}
    for path in ids:
        relative = path.relative_to(root)
        for name in (path.stem, path.name, relative.as_posix(), relative.with_suffix("").as_posix()):
            by_name.setdefault(name, set()).add(path)
    utterances, skipped = [], []
    for name, text, own_speaker in _read_metadata(root / "metadata.csv"):
        found = by_name.get(name, set())
        if len(found) == 1:
            (path,) = found
            utterances.append(Utterance(ids[path], path, text, own_speaker or speaker))
        else:
            fit = f"{len(found)} sound files fit" if found else "there is no such sound file"
            skipped.append(Skip(name, f"metadata.csv names it, but {fit}"))
    _check_ids((utterance.id for utterance in utterances), root / "metadata.csv")
    unnamed = set(ids) - {utterance.path for utterance in utterances}
    skipped += [Skip(path.relative_to(root).as_posix(), "not named in metadata.csv") for path in sorted(unnamed)]
    return utterances, skipped


def _read_metadata(path: Path) -> list[tuple[str, str, str]]:
    """(id, text, speaker) of each row; a first line that starts with `id` names the columns."""
    rows = _read_rows(path)
    columns = ["id", "text", "speaker"]
    if rows and rows[0][0].strip().lower() == "id":
        columns = [name.strip().lower() for name in rows.pop(0)]
    elif len(rows) > 2 and len({row[2] for row in rows if len(row) > 2}) == len(rows):
        raise CorpusError(
            f"{path}: every row has a speaker of its own; if the third column is a text, begin with a line of "
            "column names, like id|raw|text, or use corpus=ljspeech"
        )
    table = [dict(zip(columns, row, strict=False)) for row in rows]
    return [(row["id"].strip(), row.get("text", "").strip(), row.get("speaker", "").strip()) for row in table]


def _ljspeech(config: CorpusConfig) -> tuple[list[Utterance], list[Skip]]:
    """LJSpeech-1.1: metadata.csv with `id|text|normalised text`, and wavs/ID.wav."""
    root = _layout(config)
    rows = _read_rows(root / "metadata.csv")
    _check_ids((row[0] for row in rows), root / "metadata.csv")
    return [Utterance(row[0], root / "wavs" / f"{row[0]}.wav", row[-1], "LJ") for row in rows], []


def _vctk(config: CorpusConfig) -> tuple[list[Utterance], list[Skip]]:
    """VCTK 0.92: wav48_silence_trimmed/p225/p225_001_mic1.flac, and txt/p225/p225_001.txt, which p315 lacks."""
    root = _layout(config)
    utterances = []
    for path in (root / "wav48_silence_trimmed").glob(f"*/*_{config.microphone}.flac"):
        name, speaker = path.stem.removesuffix(f"_{config.microphone}"), path.parent.name
        text = root / "txt" / speaker / f"{name}.txt"
        words = text.read_text(encoding="utf-8").strip() if text.is_file() else ""
        utterances.append(Utterance(name, path, words, speaker))
    return utterances, []


def _layout(config: CorpusConfig) -> Path:
    """The folder of a published corpus: `root` itself, or the folder in it as the archive unpacks."""
    folder, parts = LAYOUTS[config.kind]
    for root in (Path(config.root), Path(config.root) / folder):
        if all((root / part).exists() for part in parts):
            return root
    raise CorpusError(
        f"{config.root}: neither it nor its {folder} holds {' and '.join(parts)}; "
        "check corpus.root, or set corpus.download=true"
    )


def _is_there(config: CorpusConfig) -> bool:
    try:
        _layout(config)
    except CorpusError:
        return False
    return True


def _download(config: CorpusConfig) -> None:
    """Through torchaudio's dataset classes, which check the archive's hash and unpack it."""
    from torchaudio import datasets  # heavy, and seldom needed

    fetch = datasets.LJSPEECH if config.kind is CorpusKind.ljspeech else datasets.VCTK_092
    try:
        Path(config.root).mkdir(parents=True, exist_ok=True)
        fetch(config.root, download=True)
    except (OSError, RuntimeError) as error:  # no network, disk full, wrong hash
        raise CorpusError(
            f"downloading {config.kind} into {config.root} failed ({error}); check the network and the disk, "
            "or download it by hand and give its folder as corpus.root"
        ) from error


def _sound_files(root: Path) -> list[Path]:
    """All below `root` with a suffix of SOUND_SUFFIXES (WAV, AIFF, AU, CAF, FLAC, OGG, MP3; no format that hides its
    truncation), hidden ones left out, sorted."""
    paths = (Path(folder) / name for folder, _, names in os.walk(root) for name in names if not name.startswith("."))
    return sorted(path for path in paths if path.suffix.lower() in SOUND_SUFFIXES)


def _read_rows(path: Path) -> list[list[str]]:
    """The fields of each line, which `|` divides; no quoting."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 text ({error}); convert it") from error
    rows = [line.rstrip("\r").split("|") for line in text.split("\n") if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) < 2 or not row[0].strip():
            raise CorpusError(f"{path}: row {number} is not `id|text|...` but {'|'.join(row)!r}; mend or remove it")
    return rows


def _check_ids(ids: Iterable[str], source: Path) -> None:
    """Ids become file names: no two alike, none with a folder in it."""
    for name, count in Counter(ids).items():
        if count > 1:
            raise CorpusError(
                f"{source}: {name!r} stands for {count} utterances; rename all but one, or leave them out"
            )
        if Path(name).name != name:
            raise CorpusError(f"{source}: the id {name!r} cannot be a file name; rename it")
