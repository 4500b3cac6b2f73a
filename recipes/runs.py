"""What the two training programs share: the settings of a run, and the run itself."""

from dataclasses import dataclass

from data.dataset import PreparedCorpus
from recipes.batches import Crops, CropsConfig
from wavenet.checkpoint import Description
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
        clips: utterances of the validation split to be heard in TensorBoard.
    """

    data: str
    run: str
    crops: CropsConfig
    clips: int
    optim: OptimConfig
    trainer: TrainerConfig

    def __post_init__(self) -> None:
        if self.clips < 0:
            raise ValueError(f"clips is {self.clips}; it must be 0 or more")


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
