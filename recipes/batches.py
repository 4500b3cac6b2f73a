"""Crops of a prepared corpus, in the order that the trainer asks for."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from data.dataset import Batch, CropConfig, CropDataset, PreparedCorpus, collate, loader
from wavenet.conditioning import MARGIN
from wavenet.objective import Clip
from wavenet.training.distributed import Distributed
from wavenet.training.trainer import Batches, TrainerConfig


@dataclass
class CropsConfig(CropConfig):
    """A training example.

    Args:
        left_frames: frames of context before those that count; None for all that the network can read.
    """

    left_frames: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.left_frames is not None and self.left_frames < 0:
            raise ValueError(f"crops.left_frames is {self.left_frames}; it must be 0 or more, or null for all")


@dataclass
class Crops:
    """The training and validation batches of a run.

    Args:
        reach: samples before an output that the network reads.
    """

    corpus: PreparedCorpus
    config: CropsConfig
    reach: int
    trainer: TrainerConfig

    def training(self, processes: Distributed) -> Batches:
        """This process's share of every step's batch, from any step on."""
        dataset = self._dataset("train", self.config.random_gain_db)
        size = self.trainer.batch_size // processes.world_size

        def batches(first_step: int) -> Iterator[Batch]:
            return loader(
                dataset,
                batch_size=size,
                first_index=first_step * self.trainer.batch_size,
                rank=processes.rank,
                world_size=processes.world_size,
                workers=self.trainer.workers,
            )

        return batches

    def validation(self) -> list[Batch]:
        """Fixed batches of the validation split, at the level of the files."""
        dataset = self._dataset("valid", 0.0)
        size, count = self.trainer.batch_size, self.trainer.validate_batches
        return [collate([dataset[b * size + i] for i in range(size)]) for b in range(count)]

    def _dataset(self, split: str, random_gain_db: float) -> CropDataset:
        left = self.config.left_frames
        if left is None:
            left = -(-self.reach // self.corpus.mel.hop_length)
        return CropDataset(
            self.corpus,
            split,
            frames=self.config.frames,
            left_frames=left,
            margin=MARGIN,
            random_gain_db=random_gain_db,
            seed=self.trainer.seed,
        )


def whole_clips(corpus: PreparedCorpus, count: int) -> list[Clip]:
    """The first `count` utterances of the validation split, to be listened to: a voice hears their pitch itself."""
    return [Clip(entry.id, replace(corpus.whole(entry), f0=None)) for entry in corpus.entries("valid")[:count]]
