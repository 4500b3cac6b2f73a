"""The figures of the README and of the page of results are those of the results files; other words are left alone."""

import json
import re
import shutil
from pathlib import Path

import pytest

from recipes import results
from recipes.benchmark.rows import as_json, matrix_limit, measured


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A README and a page of results, with words before and after the figures."""
    readme, home = tmp_path / "README.md", tmp_path / "results"
    home.mkdir()
    monkeypatch.setattr(results, "README", readme)
    monkeypatch.setattr(results, "HOME", home)
    for page in (readme, home / "README.md"):
        page.write_text(f"before\n{results.BEGIN}\nold figures\n{results.END}\nafter\n")
    return readme, home / "README.md"


def test_figures_are_put_between_the_markers(tmp_path: Path, pages: tuple[Path, Path]) -> None:
    demo = tmp_path / "demo"
    demo.mkdir()
    origin = {"command": "demo --out x", "device": "a machine", "torch": "2", "commit": "abc1234"}
    distance = {"mean": 0.5, "low": 0.4, "high": 0.6, "clips": 5, "missing": 0}
    row = {"name": "a student", "kind": "student", "estimates": {"log_mel_l1": distance}, "real_time_factor": 9.0}
    clips = {"split": "test", "utterances": 5, "seconds": 12.3}
    (demo / "evaluation.json").write_text(json.dumps({"data": clips, "rows": [row], "provenance": origin}))
    speeds = [
        {"name": name, "samples": 9, "samples_per_second": speed, "real_time_factor": 1.0, "peak_memory_mb": 300.0}
        for name, speed in (("teacher", 100.0), ("student", 2000.0))
    ]
    (demo / "benchmark.json").write_text(json.dumps({"samplers": speeds, "provenance": origin}))
    (demo / "spectrograms.png").write_bytes(b"a picture")
    readme, page = pages

    results.publish([f"toy={demo}"])
    once = page.read_text()
    assert once.startswith(f"before\n{results.BEGIN}")
    assert once.endswith(f"{results.END}\nafter\n")
    assert "old figures" not in once
    assert "| a student | 0.500 ± 0.100 " in once
    assert "| 20.0 x " in once  # the student's lead
    assert once.count("`demo --out x`, a machine, torch 2, commit `abc1234`") == 2
    assert (tmp_path / "results" / "toy" / "spectrograms.png").read_bytes() == b"a picture"
    assert readme.read_text() == f"before\n{results.BEGIN}\n\n{results.END}\nafter\n"
    results.publish([])
    assert page.read_text() == once

    (demo / "benchmark.json").unlink()  # as `wavenet evaluate` leaves it, of a folder of sounds
    (demo / "evaluation.json").write_text(
        json.dumps({"data": {**clips, "split": None}, "rows": [row], "provenance": origin})
    )
    results.publish([f"voice={demo}"])
    for told in pages:
        assert "**`voice`**: 5 clips, 12 s" in told.read_text()
    assert [path.name for path in (page.parent / "voice").iterdir()] == ["evaluation.json"]


def test_a_suite_has_its_tables_and_pictures_on_the_page_and_the_fastest_in_the_readme(
    tmp_path: Path, pages: tuple[Path, Path]
) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    limit = matrix_limit("float32", 2)
    rows = [
        measured("limits", {"limit": limit, "when": "before"}, "GFLOP/s", [300.0]),
        *(
            measured("student", {"preset": "paper"} | labels, "samples/s", [rate], limit=limit, reached=rate / 600)
            for labels, rate in (
                ({"backend": "native", "audio": "1 s"}, 60_000.0),
                ({"backend": "native", "audio": "10 s"}, 90_000.0),
                ({"backend": "reference", "audio": "10 s"}, 30_000.0),
            )
        ),
    ]
    origin = {"command": "wavenet benchmark", "device": "a machine", "torch": "2", "commit": "abc1234"}
    (suite / "benchmark.json").write_text(json.dumps({"rows": as_json(rows), "provenance": origin}))
    for picture in ("lengths.png", "shares.png"):
        (suite / picture).write_bytes(b"a picture")
    results.publish([f"speed={suite}"])
    readme, text = (page.read_text() for page in pages)
    for told, speeds in ((readme, ["90,000"]), (text, ["60,000", "90,000", "30,000"])):
        lines = [line.split("|") for line in told.splitlines() if line.startswith("| paper")]
        assert [line[4].strip() for line in lines] == speeds
        assert "50.0 %" in told
        assert "| 873,000 " in told  # a rival's
        assert "`wavenet benchmark`, a machine, torch 2, commit `abc1234`" in told
        assert told.startswith("before") and told.endswith("after\n")
    assert "<summary>limits, GFLOP/s</summary>" in text and "limits" not in readme
    assert "![Samples per second by length](speed/lengths.png)" in text
    assert (pages[1].parent / "speed" / "lengths.png").read_bytes() == b"a picture"


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ("runs/demo", "'runs/demo' is no NAME=FOLDER"),
        ("=runs", "'=runs' is no NAME=FOLDER"),
        ("../demo=runs", "'../demo=runs' is no NAME=FOLDER"),
        ("demo={}", "holds no figures"),
    ],
)
def test_what_is_no_figure_is_refused_and_nothing_is_written(
    figure: str, message: str, tmp_path: Path, pages: tuple[Path, Path]
) -> None:
    before = [page.read_text() for page in pages]
    with pytest.raises(ValueError, match=re.escape(message)):
        results.publish([figure.format(tmp_path)])
    assert [page.read_text() for page in pages] == before
    assert [path.name for path in pages[1].parent.iterdir()] == ["README.md"]


def test_both_pages_hold_the_figures_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(results.HOME, tmp_path / "results")
    shutil.copyfile(results.README, tmp_path / "README.md")
    pages = {page: page.read_text() for page in (tmp_path / "README.md", tmp_path / "results" / "README.md")}
    for page, kept in pages.items():
        before, _, rest = kept.partition(results.BEGIN)
        page.write_text(before + results.BEGIN + results.END + rest.partition(results.END)[2])
    monkeypatch.setattr(results, "HOME", tmp_path / "results")
    monkeypatch.setattr(results, "README", tmp_path / "README.md")
    results.publish([])
    assert {page: page.read_text() for page in pages} == pages


def test_what_the_readme_says_of_the_voice_are_figures_of_its_tables() -> None:
    said = " ".join(results.README.read_text().partition(results.BEGIN)[0].split())

    def figures(table: str, measure: str) -> dict[str, float]:
        judged = json.loads((results.HOME / table / "evaluation.json").read_text())["rows"]
        return {row["name"]: row["estimates"][measure]["mean"] for row in judged}

    pesq, unseen, mel = figures("voice", "pesq"), figures("validation", "pesq"), figures("voice", "log_mel_l1")
    for each in (pesq, unseen):
        assert each["world"] < each["griffin-lim"] < each["kathleen"]
    assert mel["kathleen"] < mel["griffin-lim"] < mel["world"]
    noise = "noise with the right envelope, corrected"
    for sentence in (
        f"its PESQ is {pesq['kathleen']:.2f}, Griffin-Lim's {pesq['griffin-lim']:.2f} and WORLD's {pesq['world']:.2f}",
        f"they are {unseen['kathleen']:.2f}, {unseen['griffin-lim']:.2f} and {unseen['world']:.2f}",
        f"Its log-mel distance of {mel['kathleen']:.3f} is below Griffin-Lim's {mel['griffin-lim']:.3f} and WORLD's "
        f"{mel['world']:.3f}",
        f"Without the correction its PESQ is {pesq['kathleen, uncorrected']:.2f} and its log-mel distance "
        f"{mel['kathleen, uncorrected']:.3f}",
        f"makes {pesq[noise]:.2f} of noise with the right loudness, {pesq['griffin-lim, corrected']:.2f} of "
        f"Griffin-Lim, and {pesq['world, corrected']:.2f} of WORLD",
        f"with a PESQ of {pesq['kathleen-teacher']:.2f}",
    ):
        assert sentence in said
