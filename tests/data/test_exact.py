"""The first call of an elementwise function is the second."""

import subprocess
import sys

CALLS = """
import torch
import data.exact
torch.set_num_threads(2)
x = torch.rand(300, 64)
for name in ("cos", "exp", "expm1", "log", "log10", "log1p", "sin", "sqrt", "tanh"):
    function = getattr(torch, name)
    first, second = function(x), function(x)
    assert torch.equal(first, second), name
"""


def test_every_first_call_by_several_threads_is_as_exact_as_the_second() -> None:
    """On processors where oneMKL computes; without `data.exact` some processes find a difference."""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", CALLS], check=True, timeout=100)
