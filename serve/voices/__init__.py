"""The voices that ship: checkpoints with a name. Each folder holds its weights, its licence and how it was made."""

from pathlib import Path

from wavenet.checkpoint import DESCRIPTION, CheckpointError

HOME = Path(__file__).parent


def voices() -> list[str]:
    """Names of all shipped checkpoints, students and teachers."""
    return sorted(path.parent.name for path in HOME.glob(f"*/{DESCRIPTION}"))


def find_checkpoint(name: Path | str) -> Path:
    """The directory of a checkpoint: the one of this path, or that of the shipped voice of this name.

    Raises:
        CheckpointError: neither.
    """
    if Path(name).is_dir():
        return Path(name)
    if str(name) in voices():
        return HOME / name
    raise CheckpointError(
        f"{name} is not a directory, nor the name of a voice that ships ({', '.join(voices()) or 'there is none'}): "
        "name a checkpoint's directory, that `wavenet train` or `wavenet distill` wrote, or one of these"
    )
