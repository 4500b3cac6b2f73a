"""Preparation: aligned features, reports, resuming after a kill, and folders that are refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data.audio import from_pcm, read_audio
from data.corpora import CorpusConfig, CorpusKind
from data.dataset import PreparedCorpus
from data.manifest import DataError, Split
from data.mel import MelConfig, log_mel
from data.prepare import PrepareConfig, prepare


def contents(folder: str | Path) -> dict[str, bytes]:
    """Every file but settings.json, which names the source folder."""
    paths = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != "settings.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def folder_config(root: Path, mel: MelConfig, out: Path) -> PrepareConfig:
    return PrepareConfig(CorpusConfig(kind=CorpusKind.folder, root=str(root)), mel, out=str(out), workers=0)


def write_noise(path: Path, seconds: float = 1.0, rate: int = 8000, level: float = 0.1) -> None:
    rng = np.random.default_rng(len(path.stem))
    soundfile.write(path, level * rng.uniform(-1, 1, round(seconds * rate)), rate)


def test_features_are_whole_frames_of_the_file_as_it_is(prepared: PreparedCorpus, recordings: Path) -> None:
    for split in Split:
        for entry in prepared.entries(split):
            pcm, mel = np.load(prepared.folder / "wav" / f"{entry.id}.npy"), prepared.mel_of(entry)
            source, _ = read_audio(recordings / f"{entry.id}.flac")
            assert pcm.dtype == np.int16
            assert len(pcm) == entry.samples == entry.frames * prepared.mel.hop_length
            assert 0 <= len(source) - len(pcm) < prepared.mel.hop_length
            assert np.array_equal(from_pcm(pcm), source[: len(pcm)])
            exact = log_mel(torch.from_numpy(from_pcm(pcm)).double(), prepared.mel).numpy()
            assert mel.shape == (20, entry.frames)
            assert np.abs(mel - exact).max() < 1e-6


def test_speakers_texts_and_splits_are_kept(prepared: PreparedCorpus) -> None:
    entries = sorted((entry for split in Split for entry in prepared.entries(split)), key=lambda entry: entry.id)
    assert prepared.speakers == ["ada", "bob"]
    assert [entry.speaker for entry in entries] == [1, 0, 0] * 4
    assert [entry.text for entry in entries] == [f"Clip number {n}." for n in range(12)]
    assert all(prepared.entries(split) for split in Split)


def test_the_gain_brings_the_loudest_training_sample_to_one_half(prepared: PreparedCorpus) -> None:
    loudest = max(np.abs(prepared.wav(entry)).max() for entry in prepared.entries("train"))
    assert loudest == pytest.approx(0.5, abs=1e-6)
    assert 0 < np.exp(prepared.silence_log_scale) < prepared.scale < 0.2


def test_processes_and_this_process_give_the_same_bytes(
    prepare_config: PrepareConfig, tmp_path: Path, prepared
) -> None:
    report = prepare(replace(prepare_config, out=str(tmp_path / "parallel"), workers=2))
    assert contents(tmp_path / "parallel") == contents(prepare_config.out)
    assert report.resumed == 0
    assert sum(report.splits.values()) == 12


def test_a_damaged_half_finished_folder_is_completed_to_the_same_bytes(
    prepare_config: PrepareConfig, tmp_path: Path, prepared
) -> None:
    config = replace(prepare_config, out=str(tmp_path / "out"))
    prepare(config)
    finished = contents(config.out)
    assert finished == contents(prepare_config.out)
    out = tmp_path / "out"
    (out / "corpus.json").unlink()
    (out / "wav" / "clip00.npy").unlink()
    (out / "mel" / "clip01.npy").unlink()
    (out / "mel" / "clip02.npy").write_bytes(finished["mel/clip02.npy"][:-7])
    (out / "wav" / "clip03.npy").write_bytes(b"PK\x03\x04 as of an .npz")
    np.save(out / "mel" / "clip04.npy", np.zeros((20, 3), np.float32))
    assert prepare(config).resumed == 12 - 5
    assert contents(config.out) == finished
    assert prepare(config).resumed == 12


def test_after_a_real_kill_the_same_call_finishes_the_work(
    prepare_config: PrepareConfig, tmp_path: Path, prepared
) -> None:
    config = replace(prepare_config, out=str(tmp_path / "out"))
    program = (
        "import json, sys; from data.prepare import *; from data.corpora import CorpusKind\n"
        "c = json.loads(sys.argv[1]); c['mel'] = MelConfig(**c['mel'])\n"
        "c['corpus'] = CorpusConfig(**{**c['corpus'], 'kind': CorpusKind.folder}); prepare(PrepareConfig(**c))"
    )
    with subprocess.Popen([sys.executable, "-c", program, json.dumps(asdict(config))]) as process:
        while not list((tmp_path / "out").glob("wav/*.npy")) and process.poll() is None:
            pass
        os.kill(process.pid, signal.SIGKILL)
    report = prepare(config)
    assert report.resumed > 0
    finished = {name: content for name, content in contents(config.out).items() if not name.endswith(".tmp")}
    assert finished == contents(prepare_config.out)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"min_seconds": 0.1}, "min_seconds was 0.5, is 0.1"),
        ({"trim_db": 40.0}, "trim_db was None, is 40.0"),
        ({"mel": MelConfig()}, r"mel\.hop_length was 64, is 256"),
        ({"valid": 0.1}, "valid was 0.05, is 0.1"),
        ({"corpus": CorpusConfig()}, r"corpus\.kind was 'folder', is 'espeak'"),
    ],
)
def test_a_folder_of_other_settings_is_refused_and_left_alone(
    change: dict[str, object], named: str, prepare_config: PrepareConfig, prepared: PreparedCorpus
) -> None:
    before = contents(prepared.folder)
    with pytest.raises(DataError, match=f"other settings .*{named}.*another folder"):
        prepare(replace(prepare_config, **change))
    assert contents(prepared.folder) == before


def test_a_folder_that_is_not_ours_is_refused(prepare_config: PrepareConfig, tmp_path: Path) -> None:
    (tmp_path / "wav").mkdir()
    with pytest.raises(DataError, match=r"no settings\.json, so it is not ours; give another folder"):
        prepare(replace(prepare_config, out=str(tmp_path)))


def test_bad_files_are_skipped_and_reported_by_name_and_reason(tmp_path: Path, small_mel: MelConfig) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    for n in range(4):
        write_noise(root / f"good{n}.wav", rate=16000)
    write_noise(root / "short.wav", seconds=0.3)
    write_noise(root / "truncated.wav")
    (root / "truncated.wav").write_bytes((root / "truncated.wav").read_bytes()[:5000])
    (root / "empty.wav").touch()
    (root / "text.wav").write_text("no sound", encoding="utf-8")
    soundfile.write(root / "nan.wav", np.full(8000, np.nan), 8000, subtype="FLOAT")
    soundfile.write(root / "silent.wav", np.zeros(8000), 8000)
    soundfile.write(root / "loud.wav", np.linspace(-2, 2, 8000), 8000, subtype="FLOAT")
    report = prepare(folder_config(root, small_mel, out))
    reasons = {skip.name: skip.reason for skip in report.skipped}
    assert sum(report.splits.values()) == 5
    assert set(reasons) == {"short", "truncated", "empty", "text", "nan", "silent"}
    assert "0.30 s" in reasons["short"]
    assert "min_seconds=0.5" in reasons["short"]
    assert report.resampled == {16000: 4}
    assert 3900 < report.full_scale < 4100
    written = [json.loads(line) for line in (out / "skipped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert written == [asdict(skip) for skip in report.skipped]
    text = str(report)
    assert "resampled 16000 -> 8000 Hz: 4 utterances" in text
    assert "samples at full scale" in text
    assert all(f"{name}: " in text for name in reasons)


def test_a_file_that_cannot_be_read_or_named_ends_nothing(
    tmp_path: Path, small_mel: MelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    for n in range(3):
        write_noise(root / f"good{n}.wav")
    write_noise(root / "locked.wav")
    write_noise(root / f"{'l' * 248}.wav")
    write_noise(root / f"{'m' * 252}.au")
    (root / "good0.wav").rename(root / os.fsdecode(b"caf\xe9.wav"))
    write_noise(root / "good0.wav")
    opened = Path.open

    def forbid(path: Path, *arguments: object, **options: object) -> object:
        if path.name == "locked.wav":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", forbid)
    report = prepare(folder_config(root, small_mel, out))
    reasons = {skip.name: skip.reason for skip in report.skipped}
    assert set(reasons) == {"locked", "m" * 252, "caf?"}
    assert "not UTF-8; rename it" in reasons["caf?"]
    assert "Permission denied" in reasons["locked"]
    assert "at most 251" in reasons["m" * 252]
    assert (out / "wav" / f"{'l' * 248}.npy").is_file()


@pytest.mark.parametrize("metadata", ["", "id|text\ngood0|a\ngood1|b\ngood2|c\n"])
def test_folders_whose_names_are_not_utf8_can_be_reported_and_be_a_speaker(
    metadata: str, tmp_path: Path, small_mel: MelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    (root / os.fsdecode(b"th\xe9")).mkdir(parents=True)
    for n in range(3):
        write_noise(tmp_path / f"good{n}.wav")
        (tmp_path / f"good{n}.wav").rename(root / f"good{n}.wav")
    (root / os.fsdecode(b"th\xe9") / "bad.wav").write_bytes(b"no sound")
    if metadata:
        (root / "metadata.csv").write_text(metadata, encoding="utf-8")
    monkeypatch.chdir(root)
    report = prepare(folder_config(Path(), small_mel, tmp_path / "out"))
    assert "th?/bad.wav" in str(report).encode().decode()
    assert PreparedCorpus(tmp_path / "out").speakers == report.speakers == ["caf?"]


def prepared_copy(config: PrepareConfig, recordings: Path, folder: Path) -> tuple[Path, PrepareConfig]:
    """Recordings that a test may change, in FOLDER/in, prepared into FOLDER/out."""
    root = Path(shutil.copytree(recordings, folder / "in"))
    config = replace(config, corpus=replace(config.corpus, root=str(root)), out=str(folder / "out"))
    prepare(config)
    return root, config


def test_a_recording_that_was_replaced_is_prepared_again_and_no_other(
    prepare_config: PrepareConfig, recordings: Path, tmp_path: Path
) -> None:
    root, config = prepared_copy(prepare_config, recordings, tmp_path)
    labels = tmp_path / "out" / "phones"
    labels.mkdir()
    for name in ("clip00", "clip01"):
        (labels / f"{name}.npy").touch()
    before = contents(config.out)
    shutil.copy(root / "clip05.flac", root / "clip00.flac")  # another sound
    assert prepare(config).resumed == 11
    after = contents(config.out)
    assert after["wav/clip00.npy"] == before["wav/clip05.npy"]
    assert after["mel/clip00.npy"] == before["mel/clip05.npy"]
    assert "phones/clip00.npy" not in after
    changed = {name for name in before if before[name] != after.get(name)} - {"corpus.json"}
    assert changed == {"wav/clip00.npy", "mel/clip00.npy", "phones/clip00.npy", "sources.json", "manifest.jsonl"}
    assert prepare(config).resumed == 12


def test_a_replacement_of_the_same_length_and_the_same_size_is_seen_by_its_time(
    tmp_path: Path, small_mel: MelConfig
) -> None:
    root, config = tmp_path / "in", folder_config(tmp_path / "in", small_mel, tmp_path / "out")
    root.mkdir()
    for n in range(3):
        write_noise(root / f"good{n}.wav")
    prepare(config)
    write_noise(root / "good1.wav", level=0.2)
    os.utime(root / "good1.wav", ns=(0, 0))  # an older file, moved here
    assert prepare(config).resumed == 2


def test_a_kill_between_a_replacement_and_its_features_leaves_no_old_ones(
    prepare_config: PrepareConfig, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, config = prepared_copy(prepare_config, recordings, tmp_path)
    shutil.copy(root / "clip05.flac", root / "clip00.flac")
    monkeypatch.setattr("data.prepare.map_in_order", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(config)
    monkeypatch.undo()
    assert prepare(config).resumed == 11
    assert np.array_equal(*(np.load(tmp_path / "out" / "wav" / f"clip{n}.npy") for n in ("00", "05")))


def test_a_folder_that_was_prepared_before_sources_were_kept_is_read_and_goes_on(
    prepare_config: PrepareConfig, recordings: Path, tmp_path: Path
) -> None:
    root, config = prepared_copy(prepare_config, recordings, tmp_path)
    (tmp_path / "out" / "sources.json").unlink()
    PreparedCorpus(config.out)
    assert prepare(config).resumed == 12
    (tmp_path / "out" / "sources.json").unlink()
    (root / "clip00.flac").touch()  # newer than its features
    assert prepare(config).resumed == 11


def test_a_corpus_without_sound_files_is_refused(tmp_path: Path, small_mel: MelConfig) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="no sound files in this corpus"):
        prepare(folder_config(tmp_path / "in", small_mel, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_too_few_usable_files_are_refused_with_the_reasons(tmp_path: Path, small_mel: MelConfig) -> None:
    root = tmp_path / "in"
    root.mkdir()
    write_noise(root / "a.wav")
    write_noise(root / "bb.wav")
    (root / "c.wav").touch()
    with pytest.raises(ValueError, match=r"2 usable utterances, .* at least three(.|\n)*c: .*the file is empty"):
        prepare(folder_config(root, small_mel, tmp_path / "out"))


def test_trimming_cuts_the_silence_at_both_ends(tmp_path: Path, small_mel: MelConfig) -> None:
    root = tmp_path / "in"
    root.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        speech = np.concatenate([np.zeros(8000), 0.3 * rng.uniform(-1, 1, 8000), np.zeros(8000)])
        soundfile.write(root / f"{name}.wav", speech + 1e-4 * rng.uniform(-1, 1, 24000), 8000)
    plain = prepare(folder_config(root, small_mel, tmp_path / "plain"))
    trimmed = prepare(replace(folder_config(root, small_mel, tmp_path / "trimmed"), trim_db=40.0))
    assert plain.seconds == pytest.approx(9, abs=0.1)
    assert 3 <= trimmed.seconds < 4.6


def test_espeak_prepares_from_nothing_and_twice_the_same(tmp_path: Path) -> None:
    corpus = CorpusConfig(utterances=4, voices=["en-us", "en-us+f3"])
    for name in ("a", "b"):
        report = prepare(PrepareConfig(corpus, out=str(tmp_path / name), workers=0))
        assert report.speakers == ["en-us", "en-us+f3"]
        assert not report.skipped
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_an_output_folder_that_cannot_be_written_is_said(
    tmp_path: Path, recordings: Path, small_mel: MelConfig
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        prepare(folder_config(recordings, small_mel, tmp_path / "file" / "out"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": ""}, "out=DIR"),
        ({"min_seconds": -1.0}, "min_seconds must be 0 or more, not -1.0"),
        ({"trim_db": 0.0}, "trim_db must be positive"),
        ({"valid": 0.0}, "valid and test are shares"),
        ({"valid": 0.6, "test": 0.4}, "valid and test are shares"),
        ({"workers": -2}, "workers must be 0 or more"),
    ],
)
def test_an_impossible_config_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrepareConfig(**options)
