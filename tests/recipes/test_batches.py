"""Crops as the programs cut them: complete in their context, shared fairly, the same after a stop."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from data.dataset import Batch, CropDataset, PreparedCorpus
from recipes.batches import Crops, CropsConfig, whole_clips
from wavenet.conditioning import MARGIN
from wavenet.objective import TeacherObjective
from wavenet.pretrained import load_teacher
from wavenet.training.distributed import Distributed
from wavenet.training.trainer import TrainerConfig

CPU = torch.device("cpu")


@pytest.fixture
def corpus(toy_corpus: Path) -> PreparedCorpus:
    return PreparedCorpus(toy_corpus)


@pytest.fixture
def crops(corpus: PreparedCorpus) -> Crops:
    trainer = TrainerConfig(batch_size=4, validate_batches=2, workers=0, seed=3)
    return Crops(corpus, CropsConfig(frames=8, random_gain_db=6.0), reach=127, trainer=trainer)


def same(one: Batch, other: Batch) -> bool:
    pairs = ((one.wav, other.wav), (one.mel, other.mel), (one.speaker, other.speaker))
    return all(torch.equal(a, b) for a, b in pairs)


def take(crops: Crops, first_step: int, count: int, rank: int = 0, world_size: int = 1) -> list[Batch]:
    return list(islice(crops.training(Distributed(rank, world_size, CPU))(first_step), count))


def test_the_left_context_covers_what_the_network_reads_in_whole_frames(crops: Crops) -> None:
    (batch,) = take(crops, 0, 1)
    assert batch.left == 128  # two frames of 64 for a reach of 127
    assert batch.wav.shape == (4, 128 + 8 * 64)
    assert batch.mel.shape == (4, 20, 2 + 8 + 2 * batch.margin)


@pytest.mark.parametrize("left_frames", [0, 5])
def test_the_left_context_can_be_chosen(crops: Crops, left_frames: int) -> None:
    crops.config.left_frames = left_frames
    assert take(crops, 0, 1)[0].left == 64 * left_frames


def test_a_run_that_starts_at_a_later_step_sees_the_batches_of_one_that_never_stopped(crops: Crops) -> None:
    assert all(map(same, take(crops, 0, 5)[3:], take(crops, 3, 2)))


def test_two_processes_share_the_batch_of_one(crops: Crops) -> None:
    (whole,) = take(crops, 2, 1)
    halves = [take(crops, 2, 1, rank, 2)[0] for rank in (0, 1)]
    for rank, half in enumerate(halves):
        assert torch.equal(half.wav, whole.wav[rank::2])


def test_validation_is_fixed_of_its_own_split_and_at_the_level_of_the_files(
    crops: Crops, corpus: PreparedCorpus
) -> None:
    first, again = crops.validation(), crops.validation()
    assert len(first) == 2
    assert all(map(same, first, again))
    clips = [corpus.wav(entry) for entry in corpus.entries("valid")]
    for target in first[0].wav[:, first[0].left :].numpy():
        assert any((clip[start : start + len(target)] == target).all() for clip in clips for start in starts(clip))


def starts(clip: object) -> range:
    return range(0, len(clip) - 8 * 64 + 1, 64)


def test_whole_clips_are_the_first_of_the_validation_split(corpus: PreparedCorpus) -> None:
    ids = [entry.id for entry in corpus.entries("valid")]
    assert [clip.name for clip in whole_clips(corpus, 1)] == ids[:1]
    assert [clip.name for clip in whole_clips(corpus, 99)] == ids
    assert whole_clips(corpus, 0) == []


def test_the_loss_of_a_crop_is_that_of_its_samples_in_the_whole_utterance(
    corpus: PreparedCorpus, toy_teacher: Path
) -> None:
    """Left context, margin and target line up: the network sees in the crop what it sees in the utterance."""
    model, description = load_teacher(toy_teacher)
    dataset = CropDataset(corpus, "valid", frames=8, left_frames=2, margin=MARGIN, random_gain_db=0.0, seed=0)
    entry = dataset.entries[0]
    whole = corpus.whole(entry)
    x = model.distribution.quantise(whole.wav)
    with torch.no_grad():
        density = model.distribution.log_density(model(x, whole.mel), x)[0]
        for start in (0, 1, 17, entry.frames - 8):
            crop = dataset.crop(entry, start)
            batch = Batch(
                *(torch.from_numpy(array)[None] for array in (crop.wav, crop.mel)),
                torch.zeros(1, dtype=torch.long),
                crop.left,
                crop.margin,
            )
            report = TeacherObjective(model, description.gain, 8000, [])(batch, 0)
            expected = -density[start * 64 : (start + 8) * 64].mean()
            torch.testing.assert_close(report.loss, expected, atol=1e-4, rtol=1e-4)
