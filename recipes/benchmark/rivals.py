"""What others reach: `rivals.csv`.

Those on two CPU cores are public codes, measured once: x86-64 server with AVX-512 and AMX, torch 2.13 CPU build, 2
threads, float32, batch 1, 2 s of audio, random weights, medians of 3 to 5 runs. The others are published figures.
"""

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Rival:
    name: str
    samples_per_second: float
    device: str
    source: str  # of the code, or of the figure


def rivals() -> list[Rival]:
    with (Path(__file__).parent / "rivals.csv").open(newline="", encoding="utf-8") as file:
        return [
            Rival(row["name"], float(row["samples_per_second"]), row["device"], row["source"])
            for row in csv.DictReader(file)
        ]
