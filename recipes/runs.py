"""What the two training programs share: the settings of a run, and the run itself."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.dataset import PreparedCorpus
from data.mel import MelConfig
from recipes.batches import Crops, CropsConfig
from recipes.configuration import ConfigError
from wavenet.checkpoint import Description
from wavenet.pretrained import mel_config
from wavenet.training.distributed import Distributed
from wavenet.training.objective import Objective
from wavenet.training.optim import OptimConfig
from wavenet.training.trainer import Trainer, TrainerConfig


@dataclass
class RunConfig:
    """Which corpus, how long, how, and where.

    Args:
        data: folder that `wavenet prepare` made.
        run: directory of the checkpoint; the same one resumes.
        init_from: checkpoint whose weights training begins with (fine-tuning); None for random ones.
        clips: utterances of the validation split to be heard in TensorBoard.
    """

    data: str
    run: str
    init_from: str | None
    crops: CropsConfig
    clips: int
    optim: OptimConfig
    trainer: TrainerConfig

    def __post_init__(self) -> None:
        if self.clips < 0:
            raise ValueError(f"clips is {self.clips}; it must be 0 or more")


def check_origin(origin: Description, directory: str, mel: MelConfig, corpus: PreparedCorpus) -> None:
    """Refuses to begin from a checkpoint of another mel, level or speakers.

    Raises:
        ConfigError: naming both.
    """
    theirs = mel_config(origin, directory)
    if theirs != mel:
        raise ConfigError(
            f"the {origin.kind} in {directory} reads {theirs}, but this run {mel}: prepare the corpus with that mel"
        )
    if not math.isclose(origin.gain, corpus.gain):
        raise ConfigError(
            f"the {origin.kind} in {directory} has the gain {origin.gain:.4g}, but this run {corpus.gain:.4g}: "
            "begin from a student of this teacher, or of the one that the teacher began from"
        )
    if origin.speakers and origin.speakers != corpus.speakers:
        raise ConfigError(
            f"the {origin.kind} in {directory} knows the speakers {', '.join(origin.speakers)}, but {corpus.folder} "
            f"has {', '.join(corpus.speakers)}: begin from a checkpoint of these speakers, or of one voice"
        )


def origin_facts(origin: Description | None, config: RunConfig) -> dict[str, Any]:
    """What `Description.training` says of where the weights began."""
    if origin is None or config.init_from is None:
        return {}
    return {"init_from": {"name": Path(config.init_from).name, "step": origin.step}}


def check_pitch(pitch: bool, corpus: PreparedCorpus) -> None:
    """Refuses a corpus without F0 for a model with pitch.

    Raises:
        ConfigError: with the remedy.
    """
    if pitch and not corpus.pitch:
        raise ConfigError(
            f"the model reads pitch, but {corpus.folder} was prepared without F0: run `wavenet prepare` with the same "
            "settings and pitch=true, which adds it"
        )


def run_training(
    config: RunConfig,
    objective: Objective,
    corpus: PreparedCorpus,
    reach: int,
    description: Description,
    processes: Distributed,
) -> bool:
    """Train, or go on; False when a signal ended the run before its last step.

    Args:
        reach: samples before an output that the networks read.
    """
    crops = Crops(corpus, config.crops, reach, config.trainer)
    batches, valid_batches = crops.training(processes), crops.validation()
    return Trainer(config.trainer, config.optim, objective, batches, valid_batches, description, processes).run()
