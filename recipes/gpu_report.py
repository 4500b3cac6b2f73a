"""Everything that only a GPU can tell, in one command: the GPU's tests, then all tables and targets.

    python -m recipes.gpu_report --out runs/gpu [--only kernels,student] [--dry]

Writes gpu.json and gpu.md to OUT as it goes; `python -m recipes.results gpu=OUT` puts them among the results. Every
table is measured in a process of its own, so that what fails there (noted in the report, and in the exit code) costs no
other. With --dry all of it runs on a CPU, on tiny networks, and shows no speed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from recipes.benchmark.rows import Row, as_json, from_json
from recipes.gpu_report_bench import DRY, FULL
from recipes.gpu_report_targets import section, targets
from recipes.provenance import provenance

RESULTS, MARKDOWN = "gpu.json", "gpu.md"
TABLES = ("kernels", "student", "teacher", "training")
PATIENCE = 200  # seconds for a table
ROOT = Path(__file__).parent.parent
KERNEL_TESTS = "tests/wavenet/kernels/triton"


def main(
    out: Annotated[Path, typer.Option(help="Folder for gpu.json and gpu.md.")] = Path("runs/gpu"),
    only: Annotated[str, typer.Option(help=f"Some of tests,{','.join(TABLES)}; by default all.")] = "",
    dry: Annotated[bool, typer.Option("--dry", help="On a CPU, tiny: only show that all runs.")] = False,
    commit: Annotated[str, typer.Option(help="What is measured, where git cannot tell.")] = "",
) -> None:
    """Exit codes: 0; 1 a test or a table failed; 2 bad usage."""
    chosen = [name.strip() for name in only.split(",")] if only else ["tests", *TABLES]
    if unknown := set(chosen) - {"tests", *TABLES}:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: choose among tests, {', '.join(TABLES)}")
    if not dry and not torch.cuda.is_available():
        raise typer.BadParameter("torch finds no NVIDIA GPU here: add --dry to see that all runs", param_hint="--out")
    report = Report(out, dry, commit)
    if "tests" in chosen:
        report.test()
    for name in parts(dry, [name for name in TABLES if name in chosen]):
        report.measure(name)
    print((out / MARKDOWN).read_text())
    if report.failed:
        raise typer.Exit(1)


def parts(dry: bool, chosen: Sequence[str]) -> list[str]:
    """What is measured in a process of its own: tables, or pieces of them."""
    sizes = DRY if dry else FULL
    pieces = {
        "kernels": ["kernels"],
        "student": [f"student {preset}" for preset in sizes.students],
        "teacher": ["teacher"],
        "training": [f"training {n}" for n in range(len(sizes.training))],
    }
    return ["limits before", *(piece for name in chosen for piece in pieces[name]), "limits after"]


class Report:
    """What is known so far; on disk after every part."""

    def __init__(self, out: Path, dry: bool, commit: str) -> None:
        self.out, self.dry, self.commit = out, dry, commit
        self.rows: list[Row] = []
        self.errors: list[str] = []
        self.tests: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = {}
        out.mkdir(parents=True, exist_ok=True)

    @property
    def failed(self) -> bool:
        return bool(self.errors) or any(run["exit"] for run in self.tests)

    def test(self) -> None:
        """The tests that run where a GPU is; without one they skip what needs it, and say so."""
        spread = ["-n", "8"] if find_spec("xdist") and not self.dry else []  # most of the time is compiling
        others = [f"--ignore={KERNEL_TESTS}/test_{name}.py" for name in ("interpreter", "resources")]
        kernels = [KERNEL_TESTS, "--confcutdir", KERNEL_TESTS, *others, *spread]
        for arguments in (kernels, ["tests/distill/test_cuda_graph.py", "--noconftest"]):
            command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
            started = time.perf_counter()
            code, text = _run([sys.executable, *command], PATIENCE)
            print(text[-4000:])
            nothing = code == 5 and self.dry  # kernels are not collected without a GPU
            last = text.strip().splitlines()[-1] if text.strip() else ""
            self.tests.append({"command": " ".join(["python", *command]), "exit": 0 if nothing else code, "says": last})
            self.seconds[f"tests {len(self.tests)}"] = time.perf_counter() - started
        self._write()

    def measure(self, part: str) -> None:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "part.json"
            command = [sys.executable, "-m", "recipes.gpu_report_part", part, str(file), *(["dry"] if self.dry else [])]
            code, text = _run(command, PATIENCE, interpret=part == "kernels")
            found = json.loads(file.read_text()) if file.exists() else {"rows": [], "errors": []}
        self.rows += from_json(found["rows"])
        self.errors += [f"{part}: {error}" for error in found["errors"]]
        if code:
            self.errors.append(f"{part} ended with {code}: {text[-1500:]}")
        self.seconds[part] = time.perf_counter() - started
        print(f"{part}: {len(found['rows'])} rows in {self.seconds[part]:.0f} s", flush=True)
        self._write()

    def _write(self) -> None:
        device = "cpu" if self.dry else "cuda"
        facts = {
            "dry": self.dry,
            "tests": self.tests,
            "seconds": self.seconds,
            "errors": self.errors,
            "targets": [target.judged(self.rows) for target in targets(DRY if self.dry else FULL)],
            "rows": as_json(self.rows),
            "triton": version("triton"),
            "provenance": provenance(device) | ({"commit": self.commit} if self.commit else {}),
        }
        (self.out / RESULTS).write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n")
        (self.out / MARKDOWN).write_text(section(facts) + "\n")


def _run(command: list[str], seconds: float, interpret: bool = False) -> tuple[int, str]:
    """Exit code and output; 124 where it took too long. Without a GPU `interpret` has Triton interpreted."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if interpret and not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        text, _ = process.communicate(timeout=seconds)
        return process.returncode, text
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # compilers and test workers too
        return 124, f"no end after {seconds:.0f} s\n{process.communicate()[0]}"


if __name__ == "__main__":
    typer.run(main)
