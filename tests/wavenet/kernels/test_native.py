"""How the C kernels are built, kept and done without: each time in a process of its own, with a cache of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wavenet.kernels import native

ROOT = Path(__file__).parents[3]

# Two kernels by the backend that is there, against the reference; the warnings, one a line.
COMPUTE = """
import sys, warnings
import torch
from wavenet.kernels import ops, use_backend
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for op, shapes, numbers in (
        (ops.gated_activation, [(1, 300, 64), (64,), (1, 3, 64)], [128, 5]),
        (ops.residual_layer, [(1, 300, 16), (1, 300, 16), (64, 32), (64,), (1, 3, 64), (32, 32), (32,)], [2, 128, 5]),
    ):
        tensors = [torch.randn(shape) for shape in shapes]
        ours = op(*tensors, *numbers)
        with use_backend("reference"):
            right = op(*tensors, *numbers)
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=2e-5)
for warning in caught:
    print(f"{warning.category.__name__}: {warning.message}".replace(chr(10), " "))
"""

# The paths of products in bfloat16 that sum over whole tiles, and not; of the gate; and of both products together.
PATHS = """
from wavenet.kernels import native
for summed in ([64, 32], [48], [], [64, 48]):
    print(native.path(True, *summed))
"""

REFUSED = """
import torch
from wavenet.kernels import ops, use_backend
with use_backend("native"):
    ops.gated_activation(torch.zeros(1, 1, 32), None, None, 1)
"""


def python(*arguments, cache, **variables):
    """Starts Python with these variables; None unsets one."""
    changed = {"XDG_CACHE_HOME": str(cache)} | variables
    environment = {name: value for name, value in (os.environ | changed).items() if value is not None}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


@pytest.fixture
def compiler(tmp_path):
    """A compiler that tells what it is asked for, in `asked`, and runs a line of bash before or instead of gcc."""

    def make(line):
        script = tmp_path / "cc"
        script.write_text(f'#!/bin/bash\n[[ $1 == --version ]] || echo "$@" >> {tmp_path}/asked\n{line}\n')
        script.chmod(0o755)
        return str(script)

    return make


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"CC": "nonsense -O3"}, "no compiler 'nonsense' on the PATH"),
        ({"CC": "gcc'"}, 'CC is "gcc\'": No closing quotation'),
        ({"CC": None, "PATH": ""}, "no compiler 'gcc' on the PATH"),
        ({"CC": "/bin/false"}, "non-zero exit status 1"),
        ({"XDG_CACHE_HOME": "/dev/null"}, "Not a directory"),
    ],
)
def test_without_a_compiler_or_a_place_pytorch_computes_and_says_so(variables, reason, tmp_path):
    output = output_of(python("-c", COMPUTE, cache=tmp_path, **variables))
    (warning,) = output.splitlines()
    assert warning.startswith("NativeBuildWarning: ")
    assert all(part in warning for part in (reason, "Install gcc", "CC", "XDG_CACHE_HOME"))


def test_a_compiler_that_refuses_is_quoted_and_leaves_nothing_behind(compiler, tmp_path):
    refuses = compiler('[[ $1 == --version ]] || { echo "no such vector" >&2; exit 1; }; echo 1.0')
    (warning,) = output_of(python("-c", COMPUTE, cache=tmp_path / "cache", CC=refuses)).splitlines()
    assert warning.startswith("NativeBuildWarning: ") and "no such vector" in warning
    assert not list((tmp_path / "cache" / "parallel-wavenet").iterdir())


def test_a_user_without_a_home_is_told_so(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.warns(native.NativeBuildWarning, match="home directory.*XDG_CACHE_HOME"):
        assert native.library.__wrapped__() is None


@pytest.mark.parametrize("blank", ["", " "])
def test_a_blank_name_of_a_compiler_means_gcc(blank, monkeypatch):
    monkeypatch.setenv("CC", blank)
    built = native._built()
    monkeypatch.setenv("CC", "gcc")
    assert native._built() == built


def test_a_forced_backend_does_not_fall_back(tmp_path):
    process = python("-c", REFUSED, cache=tmp_path, CC="nonsense")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 1 and "ValueError: backend native needs a C compiler" in output


def test_processes_build_at_once_into_one_place_and_later_ones_build_nothing(compiler, tmp_path):
    gcc = compiler('exec gcc "${@/-O3/-O1}"')
    together = [
        python("-c", COMPUTE, cache=tmp_path / "cache", CC=gcc, OMP_NUM_THREADS=threads) for threads in ("1", None)
    ]
    assert [output_of(process) for process in together] == ["", ""]
    (kept,) = (tmp_path / "cache" / "parallel-wavenet").iterdir()
    assert re.fullmatch(r"kernels-[0-9a-f]{16}\.so", kept.name)
    asked, built = (tmp_path / "asked").read_text(), kept.stat()
    assert output_of(python("-c", COMPUTE, cache=tmp_path / "cache", CC=gcc)) == ""
    assert (tmp_path / "asked").read_text() == asked and kept.stat() == built


@pytest.mark.parametrize(
    ("level", "needs", "flags"),
    [
        ("x86-64", "sse2", "-O2"),
        ("x86-64-v3", "avx2 bmi2 f16c fma movbe", "-O3"),
        ("x86-64-v4", "avx512f avx512bw avx512dq avx512vl", "-O2"),
        ("native", "", "-O2 -DEMULATE_AMX"),
    ],
)
def test_every_processor_gets_the_references_numbers(level, needs, flags, compiler, tmp_path):
    """The least that x86-64 has, AVX2, AVX-512 without bfloat16, and matrix tiles: the equality tests, built for each.

    Tiles are emulated where there are none, and the processor's own where it has them. -O3, which users get, takes a
    compiler four times as long as -O2: one level has it.
    """
    has = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text())) if Path("/proc/cpuinfo").exists() else set()
    if not set(needs.split()) <= has:
        pytest.skip(f"this processor has not all of {needs}")
    gcc = compiler(f'set -- "${{@/-march=native/-march={level}}}"; exec gcc "${{@/-O3/-g0}}" {flags}')
    tests = [str(Path(__file__).with_name(f"test_{name}.py")) for name in ("cpu_gate", "cpu_layer", "mixture")]
    tests.append(str(ROOT / "tests" / "distill" / "test_stream.py"))
    names = "(references or widths or taps or threads or saturation or one_pass or 35_db) and not any_mixture"
    alone = {"CC": gcc, "OMP_NUM_THREADS": "1"}  # threads that wait for each other take minutes on a busy machine
    arguments = ("-m", "pytest", "-qx", "-p", "no:cacheprovider")
    output = output_of(python(*arguments, *tests, "-k", names, cache=tmp_path / "cache", **alone))
    assert re.search(r"^\d\d\d+ passed", output.splitlines()[-1]), output
    tiles, vectors, gate, both = output_of(python("-c", PATHS, cache=tmp_path / "cache", **alone)).splitlines()
    assert gate == vectors and both == (vectors if tiles == vectors else f"AMX and {vectors}")
    assert tiles == "AMX" or (tiles == vectors and "AMX" not in flags)
    assert (tmp_path / "asked").read_text().count("-march=native") == 1
