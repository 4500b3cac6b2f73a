"""Every results file says where it comes from, and no half of one is ever left."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipes.provenance import provenance, table, write_results


def test_results_carry_command_device_commit_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/wavenet", "evaluate", "--seed", "3"])
    write_results(tmp_path / "deep" / "results.json", "cpu", {"answer": 42})
    results = json.loads((tmp_path / "deep" / "results.json").read_text())
    assert results["answer"] == 42
    assert results["provenance"]["command"] == "wavenet evaluate --seed 3"
    assert results["provenance"]["torch"] == torch.__version__
    assert f"{torch.get_num_threads()} threads" in results["provenance"]["device"]


def test_the_commit_is_that_of_the_checkout() -> None:
    here = Path(__file__).parent
    git = subprocess.run(
        ["git", "-C", here, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    expected = git.stdout.strip() if git.returncode == 0 else "none"
    assert provenance("cpu")["commit"].rstrip("+") == expected


def test_figures_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_results(tmp_path / "results.json", "cpu", {"answer": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_aligned_markdown() -> None:
    assert table([["a", "long header"], ["longer", "b"]]).splitlines() == [
        "| a      | long header |",
        "|--------|-------------|",
        "| longer | b           |",
    ]
