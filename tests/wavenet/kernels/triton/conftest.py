"""The kernels' tests run where the kernels do: on a GPU, or on the CPU in a process with TRITON_INTERPRET=1.

Elsewhere they are not collected: `test_interpreter.py` starts that process.
"""

import os
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
STARTERS = ["test_interpreter.py", "test_resources.py"]

if INTERPRETED:
    collect_ignore = STARTERS
elif not torch.cuda.is_available():
    collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name not in STARTERS]


@pytest.fixture
def device() -> str:
    return "cpu" if INTERPRETED else "cuda"
