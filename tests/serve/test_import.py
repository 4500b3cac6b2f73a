"""Who only speaks does not wait for what training, plotting and judging need."""

import json
import subprocess
import sys

HEAVY = [
    *("hydra", "omegaconf", "tensorboard", "librosa", "matplotlib", "torchaudio", "numba", "typer", "fastapi"),
    "torch._dynamo",
]


def loaded(code: str) -> set[str]:
    """The modules that are there after `code`."""
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_vocoder_is_light_to_import() -> None:
    assert loaded("from serve import Vocoder").isdisjoint(HEAVY)
