"""F0 of recordings, in step with the mel's frames, from the file to the batch."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.dataset import CropDataset, PreparedCorpus, collate
from data.manifest import DataError
from data.pitch import fundamental
from data.prepare import PrepareConfig, prepare


@pytest.mark.parametrize(("rate", "hop"), [(22050, 256), (16000, 200), (8000, 64), (22050, 255)])
def test_the_pitch_of_a_gliding_tone_is_found_where_it_is(rate: int, hop: int) -> None:
    """A frame off by one would be 3 % of the glide off, 10 cents."""
    t = np.arange(100 * hop + hop // 2) / rate
    low, slope = 150.0, 0.25 * 150.0 / (10 * hop / rate)  # a fourth every ten frames
    middle, width = 50 * hop / rate, 20 * hop / rate
    within = np.abs(t - middle) < width
    pitch = low + slope * np.clip(t - middle + 10 * hop / rate, 0, 20 * hop / rate)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    tone = sum(np.sin(k * phase) / k for k in range(1, 8)) * within
    wav = 0.1 * tone + 1e-4 * np.random.default_rng(0).standard_normal(len(t))
    found = fundamental(wav.astype(np.float32), rate, hop)
    assert found.shape == (100,) and found.dtype == np.float32
    inside = slice(42, 59)  # of the glide, away from its corners
    centres = (np.arange(100) + 0.5) * hop / rate
    expected = np.interp(centres, t, pitch)[inside]
    assert np.median(np.abs(1200 * np.log2(found[inside] / expected))) < 5
    assert (found[:25] > 0).mean() < 0.2 and (found[75:] > 0).mean() < 0.2


def test_noise_and_what_is_shorter_than_a_frame_have_no_pitch() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(22050).astype(np.float32)
    assert (fundamental(noise, 22050, 256) > 0).mean() < 0.2
    for length in (256, 600):
        assert fundamental(noise[:length], 22050, 256).shape == (length // 256,)


@pytest.fixture(scope="module")
def with_pitch(prepare_config: PrepareConfig, tmp_path_factory: pytest.TempPathFactory) -> PreparedCorpus:
    config = replace(prepare_config, out=str(tmp_path_factory.mktemp("pitch") / "corpus"), pitch=True)
    prepare(config)
    return PreparedCorpus(config.out)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_pitch_of_recordings_is_prepared(with_pitch: PreparedCorpus) -> None:
    """That of all clips is 140 Hz, between pauses."""
    for entry in with_pitch.entries("train"):
        f0 = with_pitch.f0_of(entry)
        assert f0 is not None and f0.shape == (entry.frames,)
        voiced = f0[f0 > 0] * with_pitch.mel.sample_rate
        assert 0.3 < len(voiced) / len(f0) < 1
        assert abs(np.median(voiced) / 140 - 1) < 0.01


def test_a_corpus_prepared_without_pitch_gets_it_by_the_same_command(
    prepare_config: PrepareConfig, prepared: PreparedCorpus, with_pitch: PreparedCorpus, tmp_path: Path
) -> None:
    before = files(shutil.copytree(prepared.folder, tmp_path / "copy"))
    report = prepare(replace(prepare_config, out=str(tmp_path / "copy"), pitch=True))
    after = files(tmp_path / "copy")
    assert report.resumed == sum(report.splits.values())
    assert after == files(with_pitch.folder)
    assert {name for name in after if before.get(name) != after[name]} == {
        name for name in after if name.startswith("f0/")
    } | {"corpus.json"}


def test_crops_carry_the_pitch_of_their_frames_whatever_their_level(with_pitch: PreparedCorpus) -> None:
    dataset = CropDataset(with_pitch, "train", 16, left_frames=20, margin=2, random_gain_db=6.0, seed=0)
    entry = max(dataset.entries, key=lambda entry: entry.frames)
    whole = with_pitch.f0_of(entry)
    assert whole is not None
    inside, early = dataset.crop(entry, 30, gain=2.0), dataset.crop(entry, 3, gain=0.5)
    assert inside.f0 is not None and early.f0 is not None
    assert np.array_equal(inside.f0, whole[8:48])
    assert np.array_equal(early.f0, np.concatenate([np.repeat(whole[:1], 19), whole[:21]]))
    batch = collate([inside, early])
    assert batch.f0 is not None and batch.f0.shape == (2, batch.mel.shape[2])
    moved = batch.to("meta").f0
    assert moved is not None and moved.device.type == "meta"
    assert np.array_equal(with_pitch.whole(entry).f0, whole[None])


def test_a_corpus_without_pitch_has_none_to_give(prepared: PreparedCorpus) -> None:
    entry = prepared.entries("train")[0]
    assert not prepared.pitch
    assert prepared.f0_of(entry) is None and prepared.whole(entry).f0 is None
    assert prepared.whole(entry).to("cpu").f0 is None


def test_a_missing_contour_is_named(with_pitch: PreparedCorpus, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(with_pitch.folder, tmp_path / "copy"))
    (copy / "f0" / "clip03.npy").unlink()
    with pytest.raises(DataError, match=r"f0: clip03\.npy is missing \(1 files in all\)"):
        PreparedCorpus(copy)


def test_a_damaged_contour_is_measured_again(
    prepare_config: PrepareConfig, with_pitch: PreparedCorpus, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(with_pitch.folder, tmp_path / "copy"))
    (copy / "f0" / "clip03.npy").write_bytes(b"no array")
    prepare(replace(prepare_config, out=str(copy), pitch=True))
    assert files(copy) == files(with_pitch.folder)


def test_without_the_library_nothing_is_written(
    prepare_config: PrepareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyworld", None)
    with pytest.raises(ValueError, match=r"measured by pyworld, .*pip install 'parallel-wavenet\[eval\]'"):
        prepare(replace(prepare_config, out=str(tmp_path / "out"), pitch=True))
    assert not (tmp_path / "out").exists()
