"""What every Triton kernel takes of a multiprocessor, compiled for GPUs that need not be at hand.

    python -m recipes.kernel_resources [--out FILE]

Each module of `wavenet.kernels` that has a function `compile_targets` names launches to compile: for sm_80 (A100) and
sm_90 (H100, H200). The table gives registers a thread, bytes of stack, instructions that spill registers to it, and
bytes of shared memory a program. Run it without TRITON_INTERPRET.
"""

import json
import pkgutil
import re
import subprocess
import tempfile
from dataclasses import asdict, astuple, dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import triton
import typer

import wavenet.kernels
from recipes.provenance import table

CAPABILITIES = (80, 90)


@dataclass(frozen=True)
class Resources:
    """Of one kernel, compiled for one compute capability."""

    kernel: str
    capability: int
    warps: int
    registers: int
    stack: int
    spills: int
    shared: int


def main(out: Annotated[Path | None, typer.Option(help="File for the table as JSON.")] = None) -> None:
    """Compile every Triton kernel and print the resources that it takes."""
    rows = [resources(name, launch, capability) for name, launch in launches().items() for capability in CAPABILITIES]
    titles = ["kernel", "sm", "warps", "registers", "stack", "spills", "shared"]
    print(f"Triton {triton.__version__}\n\n{table([titles, *([str(cell) for cell in astuple(row)] for row in rows)])}")
    if out is not None:
        out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def launches() -> dict[str, Any]:
    """Every module's `compile_targets`, name -> `wavenet.kernels.triton_launch.Launch`."""
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(wavenet.kernels.__path__, "wavenet.kernels."):
        if module.name.startswith("wavenet.kernels.triton_"):
            targets: dict[str, Any] = getattr(import_module(module.name), "compile_targets", dict)()
            assert not found.keys() & targets.keys()
            found |= targets
    return found


def resources(name: str, launch: Any, capability: int) -> Resources:
    compiled = launch.compile(capability)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as binary:
        binary.write(compiled.asm["cubin"])
        binary.flush()
        usage = _cuobjdump("--dump-resource-usage", binary.name)
        registers, stack = (int(re.findall(rf"\b{field}:(\d+)", usage)[0]) for field in ("REG", "STACK"))
        instructions = _cuobjdump("--dump-sass", binary.name) if stack else ""  # without a stack nothing is spilled
    spills = len(re.findall(r"\b(?:STL|LDL)\b", instructions))
    return Resources(name, capability, launch.warps, registers, stack, spills, compiled.metadata.shared)


def _cuobjdump(what: str, path: str) -> str:
    """Triton's own copy: no CUDA toolkit is needed."""
    tool = triton.knobs.nvidia.cuobjdump.path
    return subprocess.run([tool, what, path], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    typer.run(main)
