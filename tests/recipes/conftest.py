"""The command line, in this process and as a program of its own."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from recipes import cli

Finished = subprocess.CompletedProcess[str]


@pytest.fixture
def wavenet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """`wavenet ARGUMENTS` in this process: what a process of its own would return, without the seconds it takes."""

    def run(*arguments: object) -> Finished:
        command = ["wavenet", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Finished(command, int(ended.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def start_wavenet() -> Callable[..., subprocess.Popen[str]]:
    """Start `python -m recipes.cli ARGUMENTS`, with variables in its environment; every warning is an error."""

    def start(*arguments: object, **variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-m", "recipes.cli", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)

    return start


@pytest.fixture(scope="session")
def wavenet_process(start_wavenet: Callable[..., subprocess.Popen[str]]) -> Callable[..., Finished]:
    """Run the same to its end."""

    def run(*arguments: object) -> Finished:
        process = start_wavenet(*arguments)
        out, err = process.communicate(timeout=240)
        return Finished(process.args, process.returncode, out, err)

    return run
