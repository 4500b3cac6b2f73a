"""The toy run, in this process and as a program of its own."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).parent / "toy.py"


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy"] = module  # as an import would; dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def start_toy() -> Callable[..., subprocess.Popen[str]]:
    """Start `python toy.py ARGUMENTS` with the given variables in its environment; every warning is an error."""

    def start(*arguments: object, **variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", str(PROGRAM), *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture(scope="session")
def run_toy(start_toy: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str]]:
    """Run the same to its end: exit status (minus the signal, if one killed it) and what it said."""

    def run(*arguments: object, **variables: str) -> tuple[int, str]:
        process = start_toy(*arguments, **variables)
        _, said = process.communicate(timeout=120)
        return process.returncode, said

    return run
