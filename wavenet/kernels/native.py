"""The C kernels in `csrc`: built by the machine's own compiler on first use, kept in a cache, called by ctypes.

Plain C, because nothing else does all that a layer on a CPU needs: the matrix product, the gate and the residual of a
tile of samples in one pass while they lie in the cache. torch's operators write every step to memory: `wavenet
benchmark` shows a twelfth to two thirds of the speed. numba does not vectorise the gate's exponentials and knows no
bfloat16; torch.compile fuses only what lies between two products: a minute of compiling brought the paper's student to
two fifths of this speed. The build takes seconds, needs no package, and is tuned to the processor that it runs on: AMX,
AVX-512 with or without bfloat16, or whatever vectors there are.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16)
TILED = 32  # bfloat16 numbers in a row of a matrix tile

_SOURCES = Path(__file__).parent / "csrc"
_FLAGS = (
    *("-O3", "-march=native", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared"),
    "-fno-strict-aliasing",  # a word of a product is one float or two bfloat16
)


class NativeBuildWarning(RuntimeWarning):
    """There is no compiler, it refuses, or there is no place to keep what it builds: PyTorch computes the kernels."""


CLong = ctypes.c_long


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a contiguous tensor's numbers lie; the null pointer for None.

    Raises:
        ValueError: a tensor that C cannot read.
    """
    if tensor is None:
        return ctypes.c_void_p(None)
    if not (tensor.is_cpu and tensor.is_contiguous()):
        raise ValueError(
            f"a tensor {tuple(tensor.shape)} is on {tensor.device} with strides {tensor.stride()}; the C kernels read "
            "contiguous memory of the CPU: move all of a kernel's tensors to one device"
        )
    return ctypes.c_void_p(tensor.data_ptr())


def bfloat16_wanted(weight: Tensor) -> bool:
    """Whether products are to be of bfloat16: under autocast, or with weights of that type."""
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
    return autocast or weight.dtype is torch.bfloat16


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they cannot be built, with a warning that says why."""
    try:
        return ctypes.CDLL(str(_built()))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: no home, or no command in CC
        output = getattr(error, "stderr", "") or ""
        warnings.warn(
            f"the C kernels cannot be built ({error}{output[-500:]}); PyTorch computes them, several times slower. "
            "Install gcc, or name a compiler in the variable CC, and a directory to keep the library in XDG_CACHE_HOME "
            "if ~/.cache cannot be written to",
            NativeBuildWarning,
            stacklevel=2,
        )
        return None


def loaded() -> ctypes.CDLL:
    """The compiled kernels, where they are known to be there."""
    kernels = library()
    assert kernels is not None
    return kernels


def path(half: bool, *summed: int) -> str:
    """The processor's instructions behind matrix products of bfloat16 (`half`) or of float32: "AMX", "AVX2", ..

    Args:
        summed: over how many numbers each product sums; nothing for what is none. Matrix tiles take 32 at a time: what
            is left over goes by vectors.
    """
    name = loaded().kernel_path
    name.restype = ctypes.c_char_p
    tiles = dict.fromkeys(count % TILED == 0 for count in summed) or [False]
    return " and ".join(dict.fromkeys(name(CLong(half), CLong(whole)).decode() for whole in tiles))


def _built() -> Path:
    """The shared library for these sources, this compiler and this processor, built unless it lies in the cache."""
    named = os.environ.get("CC", "").strip() or "gcc"
    try:
        compiler = shlex.split(named)
    except ValueError as error:
        raise RuntimeError(f"CC is {named!r}: {error}. ") from error
    if shutil.which(compiler[0]) is None:
        raise FileNotFoundError(f"no compiler {compiler[0]!r} on the PATH. ")
    sources = sorted(path for path in _SOURCES.iterdir() if path.suffix in (".c", ".h"))
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    texts = [path.read_text() for path in sources]
    key = hashlib.sha256("\0".join([*compiler, version, _processor(), *_FLAGS, *texts]).encode())
    path = _cache() / f"kernels-{key.hexdigest()[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:  # another process may build the same
            fresh = Path(scratch) / path.name
            units = [str(source) for source in sources if source.suffix == ".c"]
            command = [*compiler, *_FLAGS, "-o", str(fresh), *units, "-lm"]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            fresh.replace(path)
    return path


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parallel-wavenet"


def _processor() -> str:
    """What a library tuned to this processor must not leave: a home directory may be shared by several machines."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    lines = info.read_text().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
