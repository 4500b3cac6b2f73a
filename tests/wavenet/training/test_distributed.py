"""Two processes that share each batch compute what one process computes on the whole of it."""

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from wavenet.checkpoint import load_weights
from wavenet.training import distributed

Start = Callable[..., subprocess.Popen[str]]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run_two(start_toy: Start, *arguments: object) -> list[tuple[int, str]]:
    """Two processes with the variables that torchrun sets; exit status of each and what it said."""
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    processes = [start_toy(*arguments, RANK=str(rank), LOCAL_RANK=str(rank), **variables) for rank in (0, 1)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def curve(run: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if line.get(name) is not None]


def test_two_processes_have_the_gradients_the_curves_and_the_weights_of_one(
    toy: ModuleType, start_toy: Start, tmp_path: Path
) -> None:
    """In step 4 the loss of the second process alone is NaN: both skip. In step 7 it alone is told to stop: both do."""
    arguments = (tmp_path / "two", 12, "noise=0.0", "nan=3:4", f"grads={tmp_path / 'gradients.pt'}")
    stopped = run_two(start_toy, *arguments, "term=6")
    assert [status for status, _ in stopped] == [3, 3], stopped
    finished = run_two(start_toy, *arguments)
    assert [status for status, _ in finished] == [0, 0], finished
    assert "going on from step 7" in finished[0][1]
    assert "going on from step 7" not in finished[1][1]

    objective = toy.Regression(noise=0.0)
    objective(toy.pairs(0), 0).loss.backward()
    for param, gradient in zip(objective.model.parameters(), torch.load(tmp_path / "gradients.pt"), strict=True):
        torch.testing.assert_close(gradient, param.grad, atol=1e-6, rtol=0)

    toy.trainer(tmp_path / "one", toy.Regression(noise=0.0, mishaps=toy.Mishaps(nan=range(3, 4))), steps=12).run()
    for name in ("train/loss", "train/error", "train/grad_norm", "train/skipped_steps", "valid/error"):
        assert curve(tmp_path / "two", name) == pytest.approx(curve(tmp_path / "one", name), abs=1e-5), name
    one, two = load_weights(tmp_path / "one"), load_weights(tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-6, rtol=0)


def test_without_torchrun_there_is_one_process_that_wraps_nothing() -> None:
    module = torch.nn.Linear(1, 1)
    with distributed("cpu") as processes:
        assert processes.is_main
        assert processes.wrap(module) is module
        processes.barrier()
        assert processes.mean(torch.tensor([2.0])).item() == 2.0


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match=r"device is 'toaster'; it must be"), distributed("toaster"):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="finds 0 GPUs here"), distributed("cuda"):
        pass


def test_a_batch_that_the_processes_cannot_share_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    from wavenet.training import Distributed

    with pytest.raises(ValueError, match="batch_size is 8, for 3 processes; it must be a multiple"):
        toy.trainer(tmp_path, toy.Regression(), Distributed(0, 3, torch.device("cpu")))
