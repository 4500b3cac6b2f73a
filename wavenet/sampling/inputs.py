"""What a model that speaks may be given, teacher or student."""

from torch import Tensor


def check_shapes(n_mels: int, mel: Tensor | None, speaker: Tensor | None) -> None:
    """Refuses a mel that is not (B, n_mels, L), of any bands if n_mels is 0, and speakers that are not (B,).

    Raises:
        ValueError: another shape.
    """
    if mel is not None and (mel.dim() != 3 or n_mels not in (0, mel.shape[1])):
        raise ValueError(
            f"mel has the shape {tuple(mel.shape)}, but this model reads (B, {n_mels}, L): give such a mel"
        )
    if speaker is not None and speaker.dim() != 1:
        raise ValueError(f"speaker has the shape {tuple(speaker.shape)}, but must be (B,): give an index an utterance")


def batch_size(**inputs: Tensor | None) -> int:
    """B of all inputs that are given, 1 if none is.

    Raises:
        ValueError: they differ, or there is none.
    """
    sizes = {name: len(tensor) for name, tensor in inputs.items() if tensor is not None}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"batch sizes differ: {sizes}; give as many of each")
    if 0 in sizes.values():
        raise ValueError(f"{' and '.join(sizes)} have a batch of 0, but must be of 1 utterance or more: give one")
    return next(iter(sizes.values()), 1)


def check_length(length: int) -> None:
    """
    Raises:
        ValueError: fewer than one sample.
    """
    if length < 1:
        raise ValueError(f"length is {length}, but must be at least 1 sample: ask for more")
