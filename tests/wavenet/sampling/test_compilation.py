"""Machine code on the disk is that of the sources as they are now, those of other files included."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wavenet.sampling import numba_loop
from wavenet.sampling.compilation import stamp

FOLDER = Path(numba_loop.__file__).parent
PROGRAM = """
import sys
from wavenet.sampling import compilation
compilation.SOURCES = compilation.stamp(__import__("pathlib").Path(sys.argv[1]))
sys.path.insert(0, sys.argv[1])
import loop
print(loop.run(), sum(loop.run.stats.cache_hits.values()))
"""


def test_a_function_is_compiled_anew_after_a_change_in_another_file_and_only_then(tmp_path: Path) -> None:
    def run(constant: int) -> list[str]:
        (tmp_path / "piece.py").write_text(
            "from wavenet.sampling.compilation import compiled\n"
            f"@compiled\ndef piece() -> int:\n    return {constant}\n"
        )
        command = [sys.executable, "-B", "-c", PROGRAM, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    (tmp_path / "loop.py").write_text(
        "from wavenet.sampling.compilation import compiled\nfrom piece import piece\n"
        "@compiled\ndef run() -> int:\n    return piece()\n"
    )
    assert [run(1), run(1), run(2)] == [["1", "0"], ["1", "1"], ["2", "0"]]


@pytest.mark.parametrize("name", ["numba_loop", "numba_pieces", "packing", "vectors", "compilation"])
def test_the_stamp_is_of_every_file_that_the_loop_is_compiled_from(tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(FOLDER, tmp_path / "sampling"))
    assert stamp(copy) == stamp(FOLDER)
    path = copy / f"{name}.py"
    path.write_bytes(path.read_bytes() + b"\n")
    assert stamp(copy) != stamp(FOLDER)


def test_the_loop_is_kept_on_the_disk_under_that_stamp() -> None:
    assert numba_loop.run._cache._cache_file._source_stamp == stamp(FOLDER)
