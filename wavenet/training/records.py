"""Everything that a run writes besides its checkpoint; only the main process has one."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from wavenet.training.journal import Journal
from wavenet.training.objective import Audition
from wavenet.training.tensorboard import Board


class Records:
    """The curves in log.jsonl and TensorBoard, the clips in TensorBoard, of a run that goes on from `step`."""

    def __init__(self, run: Path, step: int) -> None:
        with ExitStack() as opened:
            self._journal = opened.enter_context(Journal(run, step))
            self._board = opened.enter_context(Board(run, step))
            self._opened = opened.pop_all()

    def curves(self, step: int, values: Mapping[str, float]) -> None:
        self._journal.write(step, values)
        self._board.scalars(step, values)

    def remark(self, step: int, text: str) -> None:
        self._journal.write(step, {"remark": text})
        self._board.text(step, "remark", text)

    def speed(self, step: int, samples_per_second: float) -> None:
        """Not for log.jsonl, which is the same for every run of the same command."""
        self._board.scalars(step, {"train/samples_per_second": samples_per_second})

    def auditions(self, step: int, clips: Sequence[Audition]) -> None:
        for clip in clips:
            self._board.audition(step, clip)

    def sync(self) -> None:
        """Bring everything to the disk: a checkpoint must not be ahead of its curves."""
        self._journal.sync()
        self._board.sync()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._opened.close()
