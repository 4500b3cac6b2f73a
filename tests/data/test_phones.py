"""Labels of a prepared corpus: resumable, in step with the frames, and refused where they mean nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.alignment import phones_of_frames
from data.corpora import CorpusConfig
from data.dataset import PreparedCorpus
from data.espeak import PAUSE, pronounce
from data.manifest import DataError, Entry, Split, read_manifest, write_manifest
from data.phones import LabelledCorpus, PhoneDataset, label_corpus, whole_with_phones
from data.prepare import PrepareConfig, prepare

VOICES = ["en-us", "en-us+f3"]


def all_entries(corpus: PreparedCorpus) -> list[Entry]:
    return [entry for split in Split for entry in corpus.entries(split)]


def labels(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [folder / "phones.json", *(folder / "phones").glob("*")]}


def rewrite_texts(folder: Path, text: dict[str, str]) -> None:
    entries = [
        replace(entry, text=text.get(entry.id, entry.text)) for entry in read_manifest(folder / "manifest.jsonl")
    ]
    write_manifest(folder / "manifest.jsonl", entries)


@pytest.fixture(scope="module")
def spoken_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six sentences by two synthetic voices; tests copy it."""
    out = tmp_path_factory.mktemp("spoken") / "corpus"
    prepare(PrepareConfig(CorpusConfig(utterances=6, voices=VOICES), out=str(out), workers=0))
    return out


@pytest.fixture(scope="module")
def labelled_once(spoken_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled") / "corpus"
    shutil.copytree(spoken_corpus, folder)
    label_corpus(PreparedCorpus(folder), "en-us+m3", workers=0)
    return folder


@pytest.fixture
def fresh(spoken_corpus: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(spoken_corpus, tmp_path / "fresh"))


@pytest.fixture
def labelled(labelled_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(labelled_once, tmp_path / "labelled"))


def test_synthetic_speech_has_the_phones_that_espeak_said(labelled: Path) -> None:
    corpus = LabelledCorpus(labelled)
    assert corpus.names[0] == PAUSE
    for entry in all_entries(corpus):
        own = phones_of_frames(pronounce(entry.text, VOICES[entry.speaker]), entry.frames, corpus.mel)
        assert [corpus.names[n] for n in corpus.phones(entry)] == own


def test_an_interrupted_run_goes_on_to_the_same_bytes(labelled: Path) -> None:
    whole = labels(labelled)
    first, second, *rest = sorted((labelled / "phones").iterdir())
    second.write_bytes(second.read_bytes()[:100])
    for path in rest:
        path.unlink()
    names = json.loads((labelled / "phones.json").read_text())
    names["phones"] = names["phones"][: int(np.load(first).max()) + 1]
    (labelled / "phones.json").write_text(json.dumps(names))
    report = label_corpus(PreparedCorpus(labelled), "en-us+m3", workers=0)
    assert (report.resumed, report.labelled) == (1, 6)
    assert labels(labelled) == whole


@pytest.mark.parametrize("content", [b"PK\x03\x04 as of an .npz", b"\x93NUMPY\x01\x00\x01\x00{"])
def test_damaged_labels_are_made_anew_and_damaged_features_refused_by_name(labelled: Path, content: bytes) -> None:
    whole, (entry, *_) = labels(labelled), all_entries(LabelledCorpus(labelled))
    (labelled / "phones" / f"{entry.id}.npy").write_bytes(content)
    corpus = LabelledCorpus(labelled)
    with pytest.raises(DataError, match=r"\.npy: cannot be read .*; run `wavenet train-classifier` again"):
        corpus.phones(entry)
    assert label_corpus(PreparedCorpus(labelled), "en-us+m3", workers=0).resumed == 5
    assert labels(labelled) == whole
    (labelled / "phones" / f"{entry.id}.npy").unlink()
    (labelled / "mel" / f"{entry.id}.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"\.npy: cannot be read .*; run `wavenet prepare` again"):
        label_corpus(PreparedCorpus(labelled), "en-us+m3", workers=0)


@pytest.mark.slow
def test_processes_write_what_one_writes(fresh: Path, labelled: Path) -> None:
    label_corpus(PreparedCorpus(fresh), "en-us+m3", workers=2)
    assert labels(fresh) == labels(labelled)


def test_what_has_no_text_is_left_out_and_counted(fresh: Path) -> None:
    dumb = all_entries(PreparedCorpus(fresh))[0]
    mute = all_entries(PreparedCorpus(fresh))[1]
    rewrite_texts(fresh, {dumb.id: "", mute.id: "..."})
    report = label_corpus(PreparedCorpus(fresh), "en-us", workers=0)
    assert {skip.name for skip in report.left_out} == {dumb.id, mute.id}
    assert f"left out 2:\n  {dumb.id}: no text\n  {mute.id}: eSpeak has nothing to say" in str(report)
    entries = all_entries(LabelledCorpus(fresh))
    assert len(entries) == report.labelled == 4
    assert not {dumb.id, mute.id} & {entry.id for entry in entries}


def test_a_text_that_was_replaced_is_labelled_again_and_no_other(labelled: Path) -> None:
    one, two, *_ = all_entries(PreparedCorpus(labelled))
    before = labels(labelled)
    rewrite_texts(labelled, {one.id: two.text})
    assert label_corpus(PreparedCorpus(labelled), "en-us+m3", workers=0).resumed == 5
    changed = {name for name, content in labels(labelled).items() if before[name] != content}
    assert changed - {"phones.json"} == {f"{one.id}.npy"}
    assert label_corpus(PreparedCorpus(labelled), "en-us+m3", workers=0).resumed == 6


@pytest.mark.parametrize("recorded", [True, False])
def test_a_text_that_was_emptied_has_no_labels_any_more(recorded: bool, labelled: Path) -> None:
    one, *rest = all_entries(PreparedCorpus(labelled))
    rewrite_texts(labelled, {one.id: ""})
    if not recorded:
        (labelled / "texts.json").unlink()
    report = label_corpus(PreparedCorpus(labelled), "en-us+m3", workers=0)
    assert [skip.name for skip in report.left_out] == [one.id]
    assert [entry.id for entry in all_entries(LabelledCorpus(labelled))] == [entry.id for entry in rest]


def test_labels_from_before_texts_were_kept_are_read_and_stay(labelled: Path) -> None:
    (labelled / "texts.json").unlink()
    LabelledCorpus(labelled)
    assert label_corpus(PreparedCorpus(labelled), "en-us+m3", workers=0).resumed == 6


def test_a_corpus_without_texts_is_refused(fresh: Path) -> None:
    rewrite_texts(fresh, {entry.id: "" for entry in all_entries(PreparedCorpus(fresh))})
    with pytest.raises(DataError, match=r"none of its 6 utterances has a text.*metadata\.csv"):
        label_corpus(PreparedCorpus(fresh), "en-us", workers=0)
    assert not (fresh / "phones").exists()


def test_labels_of_another_voice_are_refused(labelled: Path) -> None:
    with pytest.raises(DataError, match=r"'en-us\+m3', not 'en-us'; give voice=en-us\+m3"):
        label_corpus(PreparedCorpus(labelled), "en-us", workers=0)


def test_labels_without_names_are_refused(labelled: Path) -> None:
    (labelled / "phones.json").unlink()
    with pytest.raises(DataError, match=r"run `wavenet train-classifier`"):
        LabelledCorpus(labelled)
    with pytest.raises(DataError, match="remove phones/"):
        label_corpus(PreparedCorpus(labelled), "en-us+m3", workers=0)


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"format": 1}', '{"format": 9, "voice": "v", "phones": [""]}'])
def test_damaged_names_are_refused(labelled: Path, content: str) -> None:
    (labelled / "phones.json").write_text(content)
    with pytest.raises(DataError, match=r"phones\.json: .*damaged"):
        LabelledCorpus(labelled)


def test_labels_that_do_not_fit_are_refused(labelled: Path) -> None:
    corpus = LabelledCorpus(labelled)
    one, two, *_ = all_entries(corpus)
    np.save(labelled / "phones" / f"{one.id}.npy", np.zeros(one.frames - 1, np.int16))
    np.save(labelled / "phones" / f"{two.id}.npy", np.full(two.frames, len(corpus.names), np.int16))
    with pytest.raises(DataError, match="the manifest says"):
        corpus.phones(one)
    with pytest.raises(DataError, match=r"phones\.json names"):
        corpus.phones(two)


def test_crops_carry_the_phones_of_their_target(labelled: Path) -> None:
    corpus = LabelledCorpus(labelled)
    dataset = PhoneDataset(corpus, "train", frames=20, left_frames=3, margin=1, random_gain_db=0.0, seed=0)
    entry = dataset.entries[0]
    crop = dataset.crop(entry, start=7)
    assert np.array_equal(crop.phones, corpus.phones(entry)[7:27])
    assert len(crop.wav) == 23 * 256
    batch = dataset.batch([crop, dataset.crop(entry, start=8)])
    assert batch.phones.tolist() == [crop.phones.tolist(), corpus.phones(entry)[8:28].tolist()]
    moved = batch.to("cpu")
    assert (moved.phones == batch.phones).all() and moved.left == 3 * 256
    whole = whole_with_phones(corpus, entry)
    assert whole.phones.shape == (1, entry.frames) and whole.wav.shape == (1, entry.samples)
