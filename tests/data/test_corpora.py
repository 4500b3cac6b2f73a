"""The published layouts, metadata in all its forms, and layouts that are refused."""

import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from data.corpora import CorpusConfig, CorpusError, CorpusKind, list_corpus

Touch = Callable[..., None]


@pytest.fixture
def touch(tmp_path: Path) -> Touch:
    """Write sound files of 0.1 s below tmp_path."""

    def write(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / name, np.full(800, 0.25), 8000)

    return write


def listing(root: Path, kind: str = "folder", **options: Any) -> tuple[list[tuple[str, str, str]], dict[str, str]]:
    """(id, text, speaker) of each utterance, and the reasons of the skipped."""
    utterances, skipped = list_corpus(CorpusConfig(kind=CorpusKind(kind), root=str(root), **options))
    return [(u.id, u.text, u.speaker) for u in utterances], {skip.name: skip.reason for skip in skipped}


def test_a_folder_without_metadata_is_one_speaker(tmp_path: Path, touch: Touch) -> None:
    touch("b.wav", "a.flac", "deep/er/c.ogg", ".hidden.wav")
    (tmp_path / "notes.txt").write_text("no sound", encoding="utf-8")
    speaker = tmp_path.name
    assert listing(tmp_path) == ([("a", "", speaker), ("b", "", speaker), ("c", "", speaker)], {})
    utterances, _ = list_corpus(CorpusConfig(kind=CorpusKind.folder, root=str(tmp_path)))
    assert utterances[2].read()[0].shape == (800,)


def test_repeated_stems_take_their_folders_name(tmp_path: Path, touch: Touch) -> None:
    touch("ann/1.wav", "ben/1.wav", "ben/2.wav")
    assert [name for name, _, _ in listing(tmp_path)[0]] == ["2", "ann_1", "ben_1"]


def test_two_files_that_differ_in_suffix_only_are_refused(tmp_path: Path, touch: Touch) -> None:
    touch("a.wav", "a.flac")
    with pytest.raises(CorpusError, match="'a' stands for 2 utterances; rename all but one"):
        listing(tmp_path)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("", ["a|Hello.|ann", "b|Bye.|ben|3.5"]),
        ("id|text|speaker|seconds", ["a|Hello.|ann|1.0", "b|Bye.|ben|2.0"]),
        ("ID|seconds|Speaker|Text", ["a.wav|1.0|ann|Hello.", "deep/b|2.0|ben|Bye."]),
        ("\ufeffid|text|speaker", ["a|Hello.|ann", "", "deep/b.flac| Bye. |ben"]),
    ],
)
def test_metadata_gives_text_and_speaker(
    header: str, rows: list[str], newline: str, tmp_path: Path, touch: Touch
) -> None:
    touch("a.wav", "deep/b.flac")
    lines = [header, *rows] if header else rows
    (tmp_path / "metadata.csv").write_bytes(newline.join([*lines, ""]).encode())
    assert listing(tmp_path) == ([("a", "Hello.", "ann"), ("b", "Bye.", "ben")], {})


def test_rows_without_a_file_and_files_without_a_row_are_reported(tmp_path: Path, touch: Touch) -> None:
    touch("a.wav", "x/c.wav", "y/c.wav", "d.wav")
    (tmp_path / "metadata.csv").write_text("a|Hello.\nb|Gone.\nc|Which?\n", encoding="utf-8")
    found, skipped = listing(tmp_path)
    assert found == [("a", "Hello.", tmp_path.name)]
    assert skipped == {
        "b": "metadata.csv names it, but there is no such sound file",
        "c": "metadata.csv names it, but 2 sound files fit",
        "d.wav": "not named in metadata.csv",
        "x/c.wav": "not named in metadata.csv",
        "y/c.wav": "not named in metadata.csv",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a|Hello.\njust a line\n", "row 2 is not `id|text|...` but 'just a line'"),
        (b"a|Hello.\n|no id\n", "row 2 is not"),
        (b"a|Hello.\na|Again.\n", "'a' stands for 2 utterances"),
        (b"a|caf\xe9\n", "not UTF-8 text"),
        (b"a|One.|one\nb|Two.|two\nc|Three.|three\n", "every row has a speaker of its own"),
    ],
)
def test_broken_metadata_is_refused(content: bytes, message: str, tmp_path: Path, touch: Touch) -> None:
    touch("a.wav", "b.wav", "c.wav")
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(CorpusError, match=message.replace("|", r"\|")):
        listing(tmp_path)


@pytest.mark.parametrize("parent", ["", "LJSpeech-1.1/"])
def test_ljspeech_is_read_in_its_published_layout(parent: str, tmp_path: Path, touch: Touch) -> None:
    touch(f"{parent}wavs/LJ001-0001.wav", f"{parent}wavs/LJ001-0002.wav")
    rows = 'LJ001-0001|Dr. "X|Doctor X\nLJ001-0002|in 1900|in nineteen hundred\n'
    (tmp_path / parent / "metadata.csv").write_text(rows, encoding="utf-8")
    expected = [("LJ001-0001", "Doctor X", "LJ"), ("LJ001-0002", "in nineteen hundred", "LJ")]
    assert listing(tmp_path, "ljspeech") == (expected, {})
    utterances, _ = list_corpus(CorpusConfig(kind=CorpusKind.ljspeech, root=str(tmp_path)))
    assert utterances[0].read()[1] == 8000


def test_an_id_that_leaves_the_folder_is_refused(tmp_path: Path, touch: Touch) -> None:
    touch("wavs/a.wav")
    (tmp_path / "metadata.csv").write_text("../../etc/x|One.|One.\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="cannot be a file name"):
        listing(tmp_path, "ljspeech")


@pytest.mark.parametrize("parent", ["", "VCTK-Corpus-0.92/"])
def test_vctk_is_read_in_its_published_layout(parent: str, tmp_path: Path, touch: Touch) -> None:
    sounds = f"{parent}wav48_silence_trimmed"
    touch(
        *(f"{sounds}/p225/p225_00{n}_mic{m}.flac" for n in (1, 2) for m in (1, 2)), f"{sounds}/p315/p315_001_mic1.flac"
    )
    (tmp_path / parent / "txt" / "p225").mkdir(parents=True)
    for n in (1, 2):
        (tmp_path / parent / "txt" / "p225" / f"p225_00{n}.txt").write_text(f"Text {n}.\n", encoding="utf-8")
    expected = [("p225_001", "Text 1.", "p225"), ("p225_002", "Text 2.", "p225"), ("p315_001", "", "p315")]
    assert listing(tmp_path, "vctk") == (expected, {})
    assert listing(tmp_path, "vctk", microphone="mic2") == (expected[:2], {})


def test_espeak_lets_the_voices_take_turns() -> None:
    config = CorpusConfig(utterances=5, voices=["en-us", "en-gb-x-rp+f2"], seed=1)
    utterances, skipped = list_corpus(config)
    assert skipped == []
    assert [u.id for u in utterances] == [
        "en-gb-x-rp+f2_00001",
        "en-gb-x-rp+f2_00003",
        "en-us_00000",
        "en-us_00002",
        "en-us_00004",
    ]
    assert {u.speaker for u in utterances} == {"en-us", "en-gb-x-rp+f2"}
    assert len({u.text for u in utterances}) == 5
    assert list_corpus(config) == (utterances, skipped)


def test_an_unknown_voice_is_refused_before_anything_is_made() -> None:
    with pytest.raises(ValueError, match="'xx': eSpeak knows no such voice"):
        list_corpus(CorpusConfig(voices=["en-us", "xx"]))


@pytest.mark.parametrize("kind", ["folder", "ljspeech", "vctk"])
def test_a_missing_folder_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nowhere: there is no such folder; check corpus\.root"):
        listing(tmp_path / "nowhere", kind)


@pytest.mark.parametrize("kind", ["ljspeech", "vctk"])
def test_another_layout_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"holds .* and .*; check corpus\.root, or set corpus\.download=true"):
        listing(tmp_path, kind)


@pytest.mark.parametrize("kind", ["ljspeech", "vctk"])
def test_a_failed_download_is_said_and_nothing_is_left(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(CorpusError, match=f"downloading {kind} into .* failed .*Name or service not known.* by hand"):
        listing(tmp_path, kind, download=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parent", ["", "LJSpeech-1.1/"])
def test_a_corpus_that_is_there_is_not_downloaded(
    parent: str, tmp_path: Path, touch: Touch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr("torchaudio.datasets.LJSPEECH", fetch)
    touch(f"{parent}wavs/LJ001-0001.wav")
    (tmp_path / parent / "metadata.csv").write_text("LJ001-0001|One.|One.\n", encoding="utf-8")
    assert listing(tmp_path, "ljspeech", download=True) == ([("LJ001-0001", "One.", "LJ")], {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": CorpusKind.folder}, r"corpus\.root=DIR"),
        ({"kind": CorpusKind.folder, "root": "x", "download": True}, "nothing to download for folder"),
        ({"kind": CorpusKind.vctk, "root": "x", "microphone": "mic3"}, "must be mic1 or mic2, not 'mic3'"),
        ({"utterances": 0}, "at least 1"),
        ({"voices": []}, "must name a voice"),
    ],
)
def test_an_impossible_config_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        CorpusConfig(**options)
