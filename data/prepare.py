"""A corpus of sound files -> a folder of aligned waveforms and log-mels that training reads by memory map.

    DIR/corpus.json      format, mel, gain, speakers, scale, silence_log_scale, pitch (whether F0 was measured): written
                         last, so it means "complete"
    DIR/manifest.jsonl   one Entry a line
    DIR/wav/ID.npy       int16 (T,), T = L * hop, at the level of the recording
    DIR/mel/ID.npy       float32 (M, L), with a quarter of the config's floor
    DIR/f0/ID.npy        float32 (L,), Hz, 0 where there is no voice; only with pitch=true
    DIR/skipped.jsonl    what was left out, and why
    DIR/settings.json    what the features were made with
    DIR/sources.json     what they were made of

The lower floor makes a random gain exact: log_mel(g x) = max(stored + ln g, ln floor) for every g up to 4.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from data.arrays import load_npy, save_npy
from data.atomic import LONGEST_NAME, write_atomic
from data.audio import AudioError, Wave, from_pcm, resample, to_pcm
from data.corpora import CorpusConfig, Skip, Utterance, as_text, list_corpus
from data.levels import CorpusLevels, Levels, corpus_levels, measure
from data.manifest import FORMAT, DataError, Entry, Split, assign_splits, write_manifest
from data.mel import GAIN_LIMIT, MelConfig, log_mel
from data.parallel import map_in_order
from data.pitch import fundamental, pyworld
from data.sources import forget_replaced

LONGEST_ID = LONGEST_NAME - len(".npy")  # bytes


@dataclass
class PrepareConfig:
    """What `prepare` reads, makes and writes."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    mel: MelConfig = field(default_factory=MelConfig)
    out: str = "runs/corpus"
    min_seconds: float = 0.5  # shorter utterances are skipped
    trim_db: float | None = None  # cut silence more than so many dB under the peak off both ends; null keeps it
    valid: float = 0.05  # share of the utterances, by the hash of their ids
    test: float = 0.05
    pitch: bool = False  # measure F0 too, for models that read it; also in a folder that was prepared without
    workers: int | None = None  # processes; null: one per core, 0: this one

    def __post_init__(self) -> None:
        if not self.out:
            raise ValueError("out is empty; name the folder to write: out=DIR")
        if self.min_seconds < 0:
            raise ValueError(f"min_seconds must be 0 or more, not {self.min_seconds}")
        if self.trim_db is not None and self.trim_db <= 0:
            raise ValueError(f"trim_db must be positive (40 is common), or null, not {self.trim_db}")
        if not (self.valid > 0 and self.test > 0 and self.valid + self.test < 1):
            raise ValueError(
                f"valid and test are shares above 0 that leave some for train, not {self.valid} and {self.test}"
            )
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers must be 0 or more, or null, not {self.workers}")


@dataclass
class PrepareReport:
    """What came of it."""

    out: Path
    sample_rate: int
    splits: dict[Split, int]  # utterances
    seconds: float
    speakers: list[str]
    levels: CorpusLevels
    resumed: int  # utterances that an earlier run had finished
    resampled: dict[int, int]  # source rate -> utterances of this run
    full_scale: int  # samples at the end of the 16-bit range
    skipped: list[Skip]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        lines = [
            f"{self.out}: {sum(self.splits.values())} utterances ({counts}), {self.seconds / 60:.1f} minutes, "
            f"{len(self.speakers)} speaker{'s'[: len(self.speakers) != 1]}",
            f"gain {self.levels.gain:.3f}, scale {self.levels.scale:.4f}, "
            f"log-scale of silence {self.levels.silence_log_scale:.2f}",
        ]
        if self.resumed:
            lines.append(f"{self.resumed} utterances were there already")
        lines += [
            f"resampled {rate} -> {self.sample_rate} Hz: {count} utterances"
            for rate, count in sorted(self.resampled.items())
        ]
        if self.full_scale:
            lines.append(f"{self.full_scale} samples at full scale: clipped here or in the recording")
        if self.skipped:
            lines.append(f"skipped {len(self.skipped)} (also in {self.out / 'skipped.jsonl'}):")
            lines += [f"  {skip.name}: {skip.reason}" for skip in self.skipped[:10]]
        if len(self.skipped) > 10:
            lines.append(f"  and {len(self.skipped) - 10} more")
        return "\n".join(lines)


@dataclass
class _Features:
    """What a worker sends back of an utterance whose files are on the disk."""

    levels: Levels
    source_rate: int | None  # None: the files were there


def prepare(config: PrepareConfig) -> PrepareReport:
    """Make `config.out`; after an interruption at any moment the same call goes on and gives the same bytes.

    In a finished folder, it does what was added or replaced since.

    Raises:
        ValueError: an empty corpus, a broken layout, or a folder that was prepared with other settings.
        OSError: the folder is not writable, or the disk is full.
    """
    out = Path(config.out)
    if config.pitch:
        pyworld()  # or the news that it is missing, before anything is written
    utterances, skipped = list_corpus(config.corpus)
    if not utterances:
        raise ValueError(f"{config.corpus.root}: no sound files in this corpus; check corpus.root and corpus.kind")
    _claim(out, config)
    utterances, too_long = _nameable(utterances)
    skipped += too_long
    forget_replaced(out, utterances)
    done: dict[str, _Features] = {}
    results = map_in_order(partial(_process, config=config), utterances, config.workers, "prepare")
    for utterance, result in zip(utterances, results, strict=True):
        if isinstance(result, Skip):
            skipped.append(result)
        else:
            done[utterance.id] = result
    write_atomic(out / "skipped.jsonl", "".join(json.dumps(asdict(skip)) + "\n" for skip in skipped).encode())
    if len(done) < 3:
        reasons = "".join(f"\n  {skip.name}: {skip.reason}" for skip in skipped[:5])
        raise ValueError(
            f"{config.corpus.root or config.corpus.kind}: {len(done)} usable utterances, but train, valid and test "
            f"need at least three; add some or mend those that were skipped ({len(skipped)}):{reasons}"
        )
    kept = [utterance for utterance in utterances if utterance.id in done]
    speakers = sorted({utterance.speaker for utterance in kept})
    splits = assign_splits(list(done), config.valid, config.test)
    levels = corpus_levels([done[name].levels for name, split in splits.items() if split is Split.train])
    _write_index(config, kept, done, splits, speakers, levels)
    samples = sum(features.levels.samples for features in done.values())
    rates = Counter(features.source_rate for features in done.values())
    return PrepareReport(
        out=out,
        sample_rate=config.mel.sample_rate,
        splits={split: list(splits.values()).count(split) for split in Split},
        seconds=samples / config.mel.sample_rate,
        speakers=speakers,
        levels=levels,
        resumed=rates[None],
        resampled={rate: count for rate, count in rates.items() if rate not in (None, config.mel.sample_rate)},
        full_scale=sum(features.levels.full_scale for features in done.values()),
        skipped=skipped,
    )


def _nameable(utterances: list[Utterance]) -> tuple[list[Utterance], list[Skip]]:
    """Those whose ids can name files on every machine, and the others."""
    fit, skipped = [], []
    for utterance in utterances:
        if as_text(utterance.id) != utterance.id:
            skipped.append(Skip(utterance.id, "its name is not UTF-8; rename it"))
        elif (length := len(utterance.id.encode())) > LONGEST_ID:
            reason = f"a name of {length} bytes, but that of an .npy file has at most {LONGEST_ID}; shorten it"
            skipped.append(Skip(utterance.id, reason))
        else:
            fit.append(utterance)
    return fit, skipped


def _write_index(
    config: PrepareConfig,
    utterances: list[Utterance],
    done: dict[str, _Features],
    splits: dict[str, Split],
    speakers: list[str],
    levels: CorpusLevels,
) -> None:
    out, hop = Path(config.out), config.mel.hop_length
    entries = []
    for utterance in utterances:
        name, samples = utterance.id, done[utterance.id].levels.samples
        speaker = speakers.index(utterance.speaker)
        entries.append(Entry(name, speaker, samples, samples // hop, splits[name], utterance.text))
    write_manifest(out / "manifest.jsonl", entries)
    corpus = {
        "format": FORMAT,
        "mel": asdict(config.mel),
        "speakers": speakers,
        **asdict(levels),
        "pitch": config.pitch,
    }
    write_atomic(out / "corpus.json", json.dumps(corpus, indent=2, ensure_ascii=False).encode())


def _claim(out: Path, config: PrepareConfig) -> None:
    settings = own_settings(config)
    for folder in ("wav", "mel", "f0")[: 3 if config.pitch else 2]:
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_atomic(out / "settings.json", json.dumps(settings, indent=2).encode())


def own_settings(config: PrepareConfig) -> dict[str, Any]:
    """What decides the features, and has decided those that are in `config.out`; writes nothing.

    Raises:
        DataError: other settings made those, or something else did.
    """
    out = Path(config.out)
    settings = json.loads(json.dumps({"format": FORMAT, **asdict(config)}))
    del settings["out"], settings["workers"], settings["corpus"]["download"]  # they change no feature
    del settings["pitch"]  # adds files, and changes none
    if config.corpus.root:
        settings["corpus"]["root"] = str(Path(config.corpus.root).resolve())
    path = out / "settings.json"
    if path.exists():
        try:
            before = _flatten(json.loads(path.read_text(encoding="utf-8")))
        except (AttributeError, ValueError) as error:
            raise DataError(f"{path}: damaged ({error}); prepare into another folder, or remove {out}") from error
        now = _flatten(settings)
        changed = [
            f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
            for name in sorted(before | now)
            if before.get(name) != now.get(name)
        ]
        if changed:
            raise DataError(
                f"{out} was prepared with other settings ({'; '.join(changed)}); "
                "give the same settings, prepare into another folder (out=DIR), or remove this one"
            )
    elif (out / "wav").exists() or (out / "mel").exists():
        raise DataError(
            f"{out} holds wav/ or mel/ but no settings.json, so it is not ours; give another folder: out=DIR"
        )
    return settings


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"mel": {"floor": 1}} -> {"mel.floor": 1}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _process(utterance: Utterance, config: PrepareConfig) -> _Features | Skip:
    """Write the files of an utterance that are not there, the waveform last: with it they are whole."""
    out, mel = Path(config.out), config.mel
    wav_path, mel_path, f0_path = (out / kind / f"{utterance.id}.npy" for kind in ("wav", "mel", "f0"))
    pcm, rate = _stored(wav_path, mel_path, mel), None
    stored = pcm is not None
    if pcm is None:
        try:
            wav, rate = utterance.read()
            pcm = _waveform(wav, rate, config)
        except AudioError as error:
            return Skip(utterance.id, str(error))
        exact = torch.from_numpy(from_pcm(pcm)).double()
        log = log_mel(exact, replace(mel, floor=mel.floor / GAIN_LIMIT))  # (M, L)
        save_npy(mel_path, log.float().numpy())
    if config.pitch and not (stored and _shape(f0_path) == (len(pcm) // mel.hop_length,)):
        save_npy(f0_path, fundamental(from_pcm(pcm), mel.sample_rate, mel.hop_length))
    if not stored:
        save_npy(wav_path, pcm)
    return _Features(measure(pcm, mel.sample_rate), source_rate=rate)


def _waveform(wav: Wave, rate: int, config: PrepareConfig) -> npt.NDArray[np.int16]:
    """Resample, trim, round to 16 bits, and cut to whole frames."""
    hop, new_rate = config.mel.hop_length, config.mel.sample_rate
    wav = resample(wav, rate, new_rate)
    if config.trim_db is not None:
        import librosa  # seconds to import, and seldom needed

        wav, _ = librosa.effects.trim(wav, top_db=config.trim_db)
    pcm = to_pcm(wav)[: len(wav) // hop * hop]
    if len(pcm) < max(hop, config.min_seconds * new_rate):
        raise AudioError(
            f"too short: {len(pcm) / new_rate:.2f} s in whole frames; the least is min_seconds={config.min_seconds}"
        )
    if not pcm.any():
        raise AudioError("digital silence: every sample is 0")
    return pcm


def _stored(wav_path: Path, mel_path: Path, mel: MelConfig) -> npt.NDArray[np.int16] | None:
    """The waveform, if both files are there and whole."""
    pcm = _load(wav_path)
    if pcm is None or pcm.dtype != np.int16:
        return None
    return pcm if _shape(mel_path) == (mel.n_mels, len(pcm) // mel.hop_length) else None


def _shape(path: Path) -> tuple[int, ...] | None:
    stored = _load(path)
    return None if stored is None else stored.shape


def _load(path: Path) -> npt.NDArray[Any] | None:
    """A stored array, memory-mapped; None if there is none, a part of one, or a damaged one."""
    try:
        return load_npy(path)
    except (OSError, ValueError):
        return None
