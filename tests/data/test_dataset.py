"""Crops: slices of the whole file, pure functions of (seed, n), and a loader that starts anywhere."""

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.audio import from_pcm
from data.corpora import CorpusConfig, CorpusKind
from data.dataset import Batch, CropConfig, CropDataset, PreparedCorpus, collate, loader
from data.manifest import DataError
from data.mel import MelConfig, log_mel
from data.prepare import PrepareConfig, prepare

HOP = 64


def crops(corpus: PreparedCorpus, split: str = "train", seed: int = 0, random_gain_db: float = 6.0) -> CropDataset:
    return CropDataset(corpus, split, frames=16, left_frames=20, margin=2, random_gain_db=random_gain_db, seed=seed)


def test_a_crop_is_a_slice_of_the_whole_file(prepared: PreparedCorpus) -> None:
    dataset = crops(prepared)
    entry = max(dataset.entries, key=lambda entry: entry.frames)
    wav, mel = prepared.wav(entry), prepared.mel_of(entry)
    for start in (22, 30, entry.frames - 18):  # everything it reads lies inside
        crop = dataset.crop(entry, start)
        assert np.array_equal(crop.wav, wav[(start - 20) * HOP : (start + 16) * HOP])
        assert np.array_equal(crop.mel, mel[:, start - 22 : start + 18])
        assert (crop.left, crop.margin, crop.speaker) == (20 * HOP, 2, entry.speaker)


def test_outside_the_utterance_the_waveform_is_zero_and_the_mel_repeats_its_edge(prepared: PreparedCorpus) -> None:
    dataset = crops(prepared)
    entry = dataset.entries[0]
    wav, mel = prepared.wav(entry), prepared.mel_of(entry)
    first = dataset.crop(entry, 3)
    assert (first.wav[: 17 * HOP] == 0).all() and first.padding == 17 * HOP
    assert np.array_equal(first.wav[17 * HOP :], wav[: 19 * HOP])
    assert (first.mel[:, :19] == mel[:, :1]).all()
    assert np.array_equal(first.mel[:, 19:], mel[:, :21])
    last = dataset.crop(entry, entry.frames - 16)
    assert np.array_equal(last.wav[-HOP:], wav[-HOP:])
    assert (last.mel[:, -2:] == mel[:, -1:]).all() and last.padding == 0


@given(n=st.integers(0, 2**63))
@settings(max_examples=30, deadline=None)
def test_a_crop_is_a_pure_function_of_seed_and_index(n: int, prepared: PreparedCorpus) -> None:
    first, again = crops(prepared)[n], crops(PreparedCorpus(prepared.folder))[n]
    assert first.wav.tobytes() == again.wav.tobytes()
    assert first.mel.tobytes() == again.mel.tobytes()


def test_other_indices_and_seeds_give_other_crops(prepared: PreparedCorpus) -> None:
    drawn = [crops(prepared, seed=seed)[n].wav.tobytes() for seed in (0, 1) for n in range(50)]
    assert len(set(drawn)) == 100


def test_the_gain_changes_waveform_and_mel_alike(prepared: PreparedCorpus) -> None:
    dataset = crops(prepared)
    entry = dataset.entries[0]
    plain = dataset.crop(entry, 22)
    for gain in (0.5, 1.7, 2.0):
        crop = dataset.crop(entry, 22, gain)
        np.testing.assert_allclose(crop.wav, gain * plain.wav, rtol=1e-6)
        file_level = gain * torch.from_numpy(prepared.wav(entry) / prepared.gain).double()
        exact = log_mel(file_level, prepared.mel).numpy()[:, :40]
        assert np.abs(crop.mel - exact).max() < 1e-4


def test_a_corpus_at_the_gain_of_another_model_is_the_same_sound_at_another_level(prepared: PreparedCorpus) -> None:
    louder = PreparedCorpus(prepared.folder, 2 * prepared.gain)
    entry = prepared.entries("train")[0]
    assert np.array_equal(louder.wav(entry), 2 * prepared.wav(entry))
    assert np.array_equal(louder.mel_of(entry), prepared.mel_of(entry))
    assert louder.scale == pytest.approx(2 * prepared.scale)
    assert louder.silence_log_scale == pytest.approx(prepared.silence_log_scale + np.log(2))


def test_random_gains_stay_within_their_limits_and_the_waveform_within_full_scale(prepared: PreparedCorpus) -> None:
    loud, plain = crops(prepared), crops(prepared, random_gain_db=0.0)
    ratios = [np.abs(loud[n].wav).max() / np.abs(plain[n].wav).max() for n in range(200)]
    decibels = 20 * np.log10(ratios)
    assert -6 <= decibels.min() < -5
    assert 5 < decibels.max() <= 6.0001
    assert max(np.abs(loud[n].wav).max() for n in range(200)) <= 1


def test_utterances_are_drawn_in_proportion_to_their_length(prepared: PreparedCorpus) -> None:
    dataset = crops(prepared, "train")
    frames = np.array([entry.frames for entry in dataset.entries])
    names = [entry.id for entry in dataset.entries]
    rng = np.random.default_rng(0)
    drawn = np.bincount([names.index(dataset._draw(rng)[0].id) for _ in range(4000)], minlength=len(names))
    np.testing.assert_allclose(drawn / 4000, frames / frames.sum(), atol=0.03)


def test_every_target_lies_inside_its_utterance_and_reaches_both_ends(prepared: PreparedCorpus) -> None:
    dataset = crops(prepared, "test")
    rng = np.random.default_rng(0)
    slack = [(start, entry.frames - 16 - start) for entry, start in (dataset._draw(rng) for _ in range(3000))]
    assert min(start for start, _ in slack) == 0
    assert min(rest for _, rest in slack) == 0


def test_an_utterance_shorter_than_a_crop_is_left_out(prepared: PreparedCorpus) -> None:
    frames = sorted(entry.frames for entry in prepared.entries("train"))
    limit = frames[len(frames) // 2]
    dataset = CropDataset(prepared, "train", limit, 0, 0, 0.0, seed=0)
    assert sorted(entry.frames for entry in dataset.entries) == [count for count in frames if count >= limit]
    with pytest.raises(
        ValueError, match=rf"no train utterance has 9999 frames \(the longest has {frames[-1]}\); lower"
    ):
        CropDataset(prepared, "train", 9999, 0, 0, 0.0, seed=0)


@pytest.fixture(scope="module")
def pausing(tmp_path_factory: pytest.TempPathFactory, small_mel: MelConfig) -> PreparedCorpus:
    """Three clips, half of each near silence."""
    root = tmp_path_factory.mktemp("pausing")
    rng = np.random.default_rng(0)
    for name in "abc":
        noise = rng.uniform(-1, 1, 16000) * np.repeat([0.4, 0.0005], 8000)
        soundfile.write(root / f"{name}.wav", noise, 8000)
    config = PrepareConfig(
        CorpusConfig(kind=CorpusKind.folder, root=str(root)), small_mel, str(root / "out"), workers=0
    )
    prepare(config)
    return PreparedCorpus(config.out)


def test_training_skips_silent_crops_and_validation_does_not(pausing: PreparedCorpus) -> None:
    def silent(split: str) -> float:
        dataset = CropDataset(pausing, split, 16, 0, 0, 0.0, seed=0)
        return float(np.mean([np.abs(dataset[n].wav).max() < 0.005 for n in range(100)]))

    assert silent("train") == 0
    assert 0.3 < silent("valid") < 0.6


def test_a_batch_stacks_its_crops(prepared: PreparedCorpus) -> None:
    dataset = crops(prepared)
    batch = collate([dataset[n] for n in range(5)])
    assert batch.wav.shape == (5, 36 * HOP)
    assert batch.mel.shape == (5, 20, 40)
    assert batch.speaker.dtype == torch.int64
    assert (batch.left, batch.margin) == (20 * HOP, 2)
    assert batch.padding is not None
    assert batch.padding.tolist() == [dataset[n].padding for n in range(5)]
    moved = batch.to("meta")
    assert moved.padding is not None
    tensors = (moved.wav, moved.mel, moved.speaker, moved.padding)
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 4
    assert (moved.left, moved.margin) == (20 * HOP, 2)


def test_a_whole_utterance_is_a_batch_without_context(prepared: PreparedCorpus) -> None:
    entry = prepared.entries("test")[0]
    batch = prepared.whole(entry)
    assert batch.wav.shape == (1, entry.samples)
    assert batch.mel.shape == (1, 20, entry.frames)
    assert (batch.left, batch.margin) == (0, 0)
    assert np.array_equal(batch.wav[0].numpy(), prepared.wav(entry))


def wavs(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.wav for batch in batches])


def test_a_loader_starts_anywhere(prepared: PreparedCorpus) -> None:
    dataset = crops(prepared)
    whole = wavs(list(islice(loader(dataset, 4), 5)))
    resumed = wavs(list(islice(loader(dataset, 4, first_index=8), 3)))
    assert torch.equal(whole[8:], resumed)
    assert torch.equal(whole, torch.stack([torch.from_numpy(dataset[n].wav) for n in range(20)]))


def test_ranks_share_a_batch_without_overlap(prepared: PreparedCorpus) -> None:
    dataset = crops(prepared)
    one = list(islice(loader(dataset, 6, first_index=30), 3))
    ranks = [list(islice(loader(dataset, 2, 30, rank, world_size=3), 3)) for rank in range(3)]
    for step in range(3):
        union = [row.numpy().tobytes() for batches in ranks for row in batches[step].wav]
        assert len(set(union)) == 6
        assert sorted(union) == sorted(row.numpy().tobytes() for row in one[step].wav)


def test_workers_change_nothing(prepared: PreparedCorpus) -> None:
    dataset = crops(prepared)
    assert torch.equal(wavs(list(islice(loader(dataset, 3, workers=1), 3))), wavs(list(islice(loader(dataset, 3), 3))))


def test_a_loader_leaves_the_global_random_state_alone(prepared: PreparedCorpus) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(loader(crops(prepared), 2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "frames must be at least 1, not 0"),
        ({"random_gain_db": -1.0}, "random_gain_db must be from 0 to 12.04"),
        ({"random_gain_db": 13.0}, "random_gain_db must be from 0 to 12.04"),
    ],
)
def test_an_impossible_config_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CropConfig(**options)


def test_an_unknown_split_is_refused(prepared: PreparedCorpus) -> None:
    with pytest.raises(ValueError, match="'dev' is not a valid Split"):
        prepared.entries("dev")


@pytest.fixture
def copy(prepared: PreparedCorpus, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared.folder, tmp_path / "copy"))


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "corpus.json"
    corpus = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({name: value for name, value in (corpus | changes).items() if value is not None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, but this program reads 1"),
        ({"format": None}, "damaged .*format"),
        ({"mel": {"hop": 1}}, "damaged .*hop"),
        ({"gain": None}, "damaged .*gain"),
        ({"scale": "much"}, "damaged"),
    ],
)
def test_a_corpus_of_another_format_is_refused(changes: dict[str, object], message: str, copy: Path) -> None:
    rewrite(copy, **changes)
    with pytest.raises(DataError, match=rf"corpus\.json: {message}"):
        PreparedCorpus(copy)


def test_a_folder_that_was_not_prepared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not a prepared corpus .* run `wavenet prepare` first"):
        PreparedCorpus(tmp_path)
    (tmp_path / "corpus.json").write_text("[", encoding="utf-8")
    with pytest.raises(DataError, match=r"corpus\.json: damaged"):
        PreparedCorpus(tmp_path)


@pytest.mark.parametrize("kind", ["wav", "mel"])
def test_a_missing_file_is_named_on_opening(kind: str, copy: Path) -> None:
    (copy / kind / "clip03.npy").unlink()
    with pytest.raises(DataError, match=rf"{kind}: clip03\.npy is missing \(1 files in all\)"):
        PreparedCorpus(copy)


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 as of an .npz", b"\x93NUMPY\x01\x00\x01\x00{"])
def test_a_damaged_file_is_named_on_reading(content: bytes, copy: Path) -> None:
    corpus = PreparedCorpus(copy)
    entry = corpus.entries("train")[0]
    (copy / "wav" / f"{entry.id}.npy").write_bytes(content)
    with pytest.raises(DataError, match=rf"{entry.id}\.npy: cannot be read .* run `wavenet prepare` again"):
        corpus.wav(entry)


def test_a_file_of_another_size_is_named_on_reading(copy: Path) -> None:
    corpus = PreparedCorpus(copy)
    entry = corpus.entries("train")[0]
    np.save(copy / "mel" / f"{entry.id}.npy", np.zeros((20, 3), np.float32))
    with pytest.raises(DataError, match=r"holds float32 \(20, 3\), the manifest says float32"):
        corpus.mel_of(entry)


@pytest.mark.parametrize("own", [0.5, 1.0])
def test_no_random_gain_makes_a_sound_within_the_range_leave_it(own: float, prepared: PreparedCorpus) -> None:
    loudest = max(np.abs(from_pcm(prepared.pcm(entry))).max() for entry in prepared.entries("train"))
    corpus = PreparedCorpus(prepared.folder, gain=own / loudest)  # as of another model, whose corpus was quieter
    dataset = CropDataset(corpus, "train", frames=12, left_frames=4, margin=2, random_gain_db=12.0, seed=3)
    peaks = np.array([np.abs(dataset[n].wav).max() for n in range(200)])
    assert peaks.max() <= 1 + 1e-6
    assert peaks.max() > 0.999  # the bound is reached, and is no lower


def test_what_is_beyond_the_range_by_itself_gets_no_louder(prepared: PreparedCorpus) -> None:
    corpus = PreparedCorpus(prepared.folder, gain=100.0)
    drawn = CropDataset(corpus, "train", frames=12, left_frames=4, margin=2, random_gain_db=12.0, seed=3)
    plain = CropDataset(corpus, "train", frames=12, left_frames=4, margin=2, random_gain_db=0.0, seed=3)
    ratios = np.array([np.abs(drawn[n].wav).max() / np.abs(plain[n].wav).max() for n in range(100)])
    loud = np.array([np.abs(plain[n].wav).max() > 1 for n in range(100)])
    assert loud.sum() > 50
    assert ratios[loud].max() == pytest.approx(1.0)
    assert ratios[loud].min() < 0.3
