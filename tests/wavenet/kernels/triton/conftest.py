"""The kernels' tests run where the kernels do: on a GPU, or on the CPU in a process with TRITON_INTERPRET=1.

Elsewhere they are not collected: `test_interpreter.py` starts that process.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
KERNELS = ["test_gate.py", "test_layer.py"]

if INTERPRETED:
    collect_ignore = ["test_interpreter.py", "test_resources.py"]
elif not torch.cuda.is_available():
    collect_ignore = KERNELS


@pytest.fixture
def device() -> str:
    return "cpu" if INTERPRETED else "cuda"
