"""Where a number comes from: every results file carries its command, device and commit."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from data.atomic import write_atomic


def provenance(device: str) -> dict[str, str]:
    """Command, device, commit (with `+` when files differ from it) and versions of this run."""
    return {
        "command": " ".join([_program(Path(sys.argv[0])), *sys.argv[1:]]),
        "device": _describe(device),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write_results(path: Path, device: str, results: dict[str, Any]) -> None:
    """`results` and their provenance as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**results, "provenance": provenance(device)}, indent=2, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def table(rows: list[list[str]]) -> str:
    """Markdown, columns padded; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _program(path: Path) -> str:
    """As it is typed: a script's name, or the module or package that was run."""
    if path.name == "__main__.py":
        return f"python -m recipes.{path.parent.name}"
    return f"python -m {path.parent.name}.{path.stem}" if path.suffix == ".py" else path.name


def _describe(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The checkout's commit; "none" for an installed package."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
