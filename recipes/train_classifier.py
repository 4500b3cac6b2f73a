"""`wavenet train-classifier`: the phone classifier of the perceptual loss, from a prepared corpus with texts."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from data.dataset import Batch, CropConfig, PreparedCorpus, loader
from data.phones import LabelledCorpus, PhoneDataset, label_corpus, whole_with_phones
from distill.classification import ClassifierObjective
from distill.classifier import KIND, ClassifierConfig, ClassifierSize, PhoneClassifier, load_classifier
from recipes.configuration import ConfigError
from recipes.outputs import check_writable
from wavenet.checkpoint import Description
from wavenet.training.distributed import Distributed, distributed
from wavenet.training.optim import OptimConfig
from wavenet.training.trainer import Batches, Trainer, TrainerConfig


@dataclass
class TrainClassifierConfig:
    """`configs/train-classifier.yaml`.

    Args:
        data: folder that `wavenet prepare` made; the labels are written into it.
        run: directory of the checkpoint; the same one resumes.
        voice: of eSpeak.
        workers: processes that label.
    """

    data: str
    run: str
    voice: str
    workers: int | None
    classifier: ClassifierSize
    crops: CropConfig
    optim: OptimConfig
    trainer: TrainerConfig

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers must be 0 or more, or null, not {self.workers}")
        if self.crops.frames <= self.classifier.lookahead:
            raise ValueError(
                f"crops.frames is {self.crops.frames}, but the labels of the last {self.classifier.lookahead} frames "
                "(classifier.lookahead) do not count; take longer crops"
            )


def train_classifier(config: TrainClassifierConfig) -> bool:
    """Label the corpus, train, or go on, and judge; False when a signal ended the run before its last step.

    Raises:
        DataError: no prepared corpus, or one without texts.
        ConfigError: a classifier that does not fit the corpus' mel.
        OutputError: the run directory or the corpus cannot be written.
    """
    check_writable(config.run)
    check_writable(config.data)
    prepared = PreparedCorpus(config.data)
    with distributed(config.trainer.device) as processes:
        if processes.is_main:
            print(label_corpus(prepared, config.voice, config.workers))
        processes.barrier()
        corpus = LabelledCorpus(config.data)
        try:
            size = ClassifierConfig(
                **asdict(config.classifier),
                sample_rate=corpus.mel.sample_rate,
                hop_length=corpus.mel.hop_length,
                phones=corpus.names,
            )
        except ValueError as error:
            raise ConfigError(f"{config.data}: {error}") from None
        description = Description(
            kind=KIND,
            model=asdict(size),
            mel=asdict(corpus.mel),
            gain=corpus.gain,
            training={"data": Path(config.data).name, "voice": config.voice, "crops": asdict(config.crops)},
        )
        torch.manual_seed(config.trainer.seed)
        objective = ClassifierObjective(PhoneClassifier(size), majority(corpus))
        batches, valid_batches = crops(corpus, config, processes)
        trainer = Trainer(config.trainer, config.optim, objective, batches, valid_batches, description, processes)
        done = trainer.run()
        if done and processes.is_main:
            print(report(judge(config.run, corpus)))
    return done


def crops(corpus: LabelledCorpus, config: TrainClassifierConfig, processes: Distributed) -> tuple[Batches, list[Batch]]:
    """This process's share of every step's batch, and fixed batches of the validation split."""

    def dataset(split: str, random_gain_db: float) -> PhoneDataset:
        return PhoneDataset(corpus, split, config.crops.frames, 0, 0, random_gain_db, config.trainer.seed)

    training, validation, trainer = dataset("train", config.crops.random_gain_db), dataset("valid", 0.0), config.trainer

    def batches(first_step: int) -> Iterator[Batch]:
        return loader(
            training,
            batch_size=trainer.batch_size // processes.world_size,
            first_index=first_step * trainer.batch_size,
            rank=processes.rank,
            world_size=processes.world_size,
            workers=trainer.workers,
        )

    size = trainer.batch_size
    return batches, [
        validation.batch([validation[b * size + i] for i in range(size)]) for b in range(trainer.validate_batches)
    ]


def majority(corpus: LabelledCorpus) -> int:
    """The commonest phone of the training split."""
    counts = [np.bincount(corpus.phones(entry), minlength=len(corpus.names)) for entry in corpus.entries("train")]
    return int(np.sum(counts, axis=0).argmax())


def judge(run: str | Path, corpus: LabelledCorpus) -> dict[str, float]:
    """Figures of the checkpoint in `run` on the test split, whole utterances: means over their frames."""
    model, _ = load_classifier(run)
    objective = ClassifierObjective(model, majority(corpus))
    torch.manual_seed(0)
    entries = [entry for entry in corpus.entries("test") if entry.frames > model.config.lookahead]
    with torch.no_grad():
        figures = [objective.validate(whole_with_phones(corpus, entry)) for entry in entries]
    weights = [entry.frames - model.config.lookahead for entry in entries]
    return {name: float(np.average([one[name] for one in figures], weights=weights)) for name in figures[0]}


def report(figures: dict[str, float]) -> str:
    """One line for the labels, one for the noise."""
    distances = [f"{name.removeprefix('gram_')} {value:.4f}" for name, value in figures.items() if "gram" in name]
    return (
        f"test split: {figures['accuracy']:.1%} of the frames right, {figures['majority']:.1%} by always guessing the "
        f"commonest phone; {figures['cross_entropy']:.2f} nats a frame\n"
        f"perceptual distance from itself with noise: {', '.join(distances)}"
    )
