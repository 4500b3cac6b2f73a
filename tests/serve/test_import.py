"""Who only speaks does not wait for what training, plotting and judging need."""

import json
import subprocess
import sys

HEAVY = ["hydra", "omegaconf", "tensorboard", "librosa", "matplotlib", "torchaudio", "numba", "typer", "fastapi"]


def loaded(code: str) -> set[str]:
    """The top-level modules that are there after `code`."""
    code += "\nimport json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_vocoder_is_light_to_import() -> None:
    assert loaded("from serve import Vocoder").isdisjoint(HEAVY)
