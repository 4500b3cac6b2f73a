import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton cannot be imported: no wheel for this platform")

pytestmark = pytest.mark.slow  # a minute of compiling
STRAY = 16  # bytes of stack: a few registers that the assembler moves out of the way, outside of the loops


@pytest.fixture(scope="module")
def rows(pytestconfig, tmp_path_factory):
    """The table for every kernel, compiled in a process of its own, and never taken from a cache."""
    folder = tmp_path_factory.mktemp("resources")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder / "cache")
    command = [sys.executable, "-W", "error", "-m", "recipes.kernel_resources", "--out", str(folder / "table.json")]
    run = subprocess.run(command, env=environment, cwd=pytestconfig.rootpath, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads((folder / "table.json").read_text())


def test_every_kernel_compiles_for_both_generations(rows):
    by_capability = {
        capability: [row["kernel"] for row in rows if row["capability"] == capability] for capability in (80, 90)
    }
    assert by_capability[80] == by_capability[90]
    gate, layer = ("gated_activation", "gated_activation backward"), ("residual_layer forward", "residual_layer weight")
    for kernel in (*gate, *layer, "mixture log density", "mixture cross-entropy"):
        assert any(name.startswith(kernel) for name in by_capability[90])


def test_no_kernel_spills_its_registers(rows):
    assert [row for row in rows if row["stack"] > STRAY] == []
    assert [row for row in rows if row["capability"] == 90 and row["spills"] and "float32" not in row["kernel"]] == []


def test_every_kernel_fits_into_a_multiprocessor(rows):
    most = {
        80: 163 * 1024,
        90: 227 * 1024,
    }  # bytes a program may have, CUDA C++ programming guide, compute capabilities
    assert [row for row in rows if row["shared"] > most[row["capability"]]] == []
