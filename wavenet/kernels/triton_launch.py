"""One launch of a Triton kernel, described once: run on a GPU or in the interpreter, or compiled without either."""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.interpreter import InterpretedFunction

ALIGNMENT = 16  # bytes of a pointer that Triton compiles special code for

_POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}


@dataclass(frozen=True)
class Launch:
    """A kernel with all that it is called with.

    Args:
        kernel: a function under `triton.jit` that is specialised on none of its integers.
        grid: programs along each axis; with a 0 among them nothing runs.
        arguments: contiguous tensors (on the device `meta` where the launch is only compiled), integers, or None for a
            tensor that is absent.
        constants: the kernel's `tl.constexpr` parameters.
        warps, stages: of 32 threads a program, and of loads in flight in its loops.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Tensor | int | None]
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 3

    def run(self) -> None:
        tensors = [argument for argument in self.arguments.values() if isinstance(argument, Tensor)]
        assert all(tensor.is_contiguous() for tensor in tensors)
        if 0 in self.grid:
            return
        with torch.cuda.device(
            tensors[0].get_device()
        ):  # Triton launches on the current device, whatever the tensors' is
            self.kernel[self.grid](**self.arguments, **self.constants, **self._options)

    def compile(self, capability: int) -> Any:
        """The kernel that a GPU of this compute capability, such as 90, would run.

        Raises:
            RuntimeError: under TRITON_INTERPRET=1, where nothing is compiled.
        """
        if isinstance(self.kernel, InterpretedFunction):
            raise RuntimeError("TRITON_INTERPRET is set: kernels compile only in a process without it")
        values = {**self.arguments, **self.constants}
        names = self.kernel.arg_names
        signature = {name: _type(values[name], name in self.constants) for name in names}
        absent = {name: values[name] for name in names if signature[name] == "constexpr"}
        aligned = [(i,) for i, name in enumerate(names) if isinstance(values[name], Tensor)]
        source = ASTSource(self.kernel, signature, absent, {i: [["tt.divisibility", ALIGNMENT]] for i in aligned})
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=self._options)

    @property
    def _options(self) -> dict[str, Any]:
        # A multiplication and an addition are one instruction; Triton 3.9 warns where that is left to its default.
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


def check_dtype(**tensors: Tensor | None) -> None:
    """Raises ValueError for a tensor of a type that the kernels have not."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in _POINTERS:
            raise ValueError(
                f"{name} is {tensor.dtype}; on backend triton it must be float32, bfloat16 or float16: "
                'convert it, or use_backend("reference")'
            )


def _type(value: Tensor | int | None, constant: bool) -> str:
    if constant or value is None:
        return "constexpr"
    return _POINTERS[value.dtype] if isinstance(value, Tensor) else "i32"
