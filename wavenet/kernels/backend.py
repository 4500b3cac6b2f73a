"""Which implementation of the kernels computes: chosen by the tensors' device, or forced; and whether for gradients."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from importlib.util import find_spec

import torch
from torch import Tensor

from wavenet.kernels import native


class Backend(StrEnum):
    """reference: plain PyTorch, anywhere. native: compiled C, on the CPU. triton: on an NVIDIA GPU."""

    reference = "reference"
    native = "native"
    triton = "triton"


_forced: ContextVar[Backend | None] = ContextVar("forced", default=None)


@contextmanager
def use_backend(backend: Backend | str) -> Iterator[None]:
    """Every kernel called within computes on this backend, or raises ValueError where it cannot."""
    token = _forced.set(Backend(backend))
    try:
        yield
    finally:
        _forced.reset(token)


def forced_backend() -> Backend | None:
    """What `use_backend` asked for."""
    return _forced.get()


def best_backend(device: torch.device, dtype: torch.dtype) -> Backend:
    """The fastest one for tensors of this device and dtype; the reference where no other is available.

    While torch.compile or torch.export traces a CPU's operators, the reference: C called by its address is no graph's.
    """
    if device.type == "cpu" and (torch.compiler.is_compiling() or dtype not in native.DTYPES):
        return Backend.reference
    if device.type == "cpu" and native.library() is not None:
        return Backend.native
    if device.type == "cuda" and dtype != torch.float64 and find_spec("triton") is not None:
        return Backend.triton
    return Backend.reference


def needs_gradient(tensors: Iterable[Tensor | None]) -> bool:
    """Whether a backward pass may follow: parameters ask for gradients also where nobody computes any."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
