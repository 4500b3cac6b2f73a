"""The page of an evaluation: one HTML file with everything in it, players side by side, that opens from any disk."""

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import soundfile

from data.atomic import write_atomic
from data.audio import from_pcm
from recipes.evaluate_clips import Pcm
from recipes.evaluate_measures import MEASURES, QUALITY, SPECTRUM, TIMING, Figures, Measure, Row, cells
from recipes.pictures import spectrogram

POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
ON_CARDS = ("pesq", "stoi", "log_mel_l1", "f0", "high_band", "floor")


@dataclass
class Shown:
    """A clip with its players: 16-bit audio and figures by the name of the voice."""

    id: str
    said: dict[str, Pcm]
    figures: dict[str, Figures]


def write_page(
    path: Path, rows: list[Row], shown: list[Shown], rate: int, data: Mapping[str, Any], origin: Mapping[str, str]
) -> None:
    """Write the page; it names no other file and no address."""
    where = f"the {data['split']} split" if data["split"] else "a folder of recordings"
    clips = f"{data['utterances']} clip{'s'[: data['utterances'] != 1]} of {where}, {data['seconds']:.1f} s"
    parts = [
        f"<header><h1>Evaluation</h1><p>{clips}. Means over clips, with half of their 95 % bootstrap interval.</p>",
        f"<p class=quiet><code>{escape(origin['command'])}</code><br>{escape(origin['device'])}, "
        f"torch {escape(origin['torch'])}, commit <code>{escape(origin['commit'])}</code></p></header>",
        "<main>",
        _table("Quality and speed", rows, QUALITY, speed=True),
        _table("Energy of the bands, over that of the original", rows, SPECTRUM),
        _legend(rows),
        "<h2>Listen</h2><p>While a clip plays, the keys <kbd>1</kbd> to <kbd>9</kbd> change the voice at the same "
        "moment, and <kbd>0</kbd> stops it. Spectrograms reach from 0 Hz to "
        f"{rate / 2000:g} kHz.</p>",
        *(_clip(clip, rate) for clip in shown),
        "</main>",
    ]
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><style>{STYLE}</style></head><body>'
        + "\n".join(parts)
        + f"<script>{SCRIPT}</script></body></html>\n"
    )
    write_atomic(path, text.encode())


def _table(title: str, rows: list[Row], measures: Mapping[str, Measure], speed: bool = False) -> str:
    used = {key: measure for key, measure in measures.items() if any(key in row.estimates for row in rows)}
    if not used:
        return ""
    head = "".join(f'<th scope="col">{escape(measure.label)}</th>' for measure in used.values())
    lines = []
    for row in rows:
        if not (speed or row.estimates.keys() & used.keys()):
            continue
        found = [f"<td>{escape(cell)}</td>" for cell in cells(row, used)]
        if speed:
            found.append(f"<td>{'' if row.real_time_factor is None else f'{row.real_time_factor:.2f}'}</td>")
        lines.append(f'<tr class="{row.kind}"><th scope="row">{escape(row.name)}</th>{"".join(found)}</tr>')
    head += '<th scope="col">x real time</th>' if speed else ""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{title}"><table><caption>{title}</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _legend(rows: list[Row]) -> str:
    used = {key for row in rows for key in row.estimates}
    items = [
        f"<dt>{escape(measure.label)}</dt><dd>{escape(measure.meaning)}; best {escape(measure.best)}</dd>"
        for key, measure in MEASURES.items()
        if key in used and key in QUALITY
    ]
    items.append(f"<dt>x real time</dt><dd>seconds of sound made per second of computing, {TIMING}; best high</dd>")
    return f"<details><summary>What the columns mean</summary><dl>{''.join(items)}</dl></details>"


def _clip(clip: Shown, rate: int) -> str:
    cards = "".join(
        _card(number, name, pcm, rate, clip.figures[name]) for number, (name, pcm) in enumerate(clip.said.items(), 1)
    )
    return f'<section class="clip"><h3>{escape(clip.id)}</h3><div class="cards">{cards}</div></section>'


def _card(number: int, name: str, pcm: Pcm, rate: int, figures: Figures) -> str:
    picture = _data("image/png", spectrogram(from_pcm(pcm)))
    values = "".join(
        f"<div><dt>{escape(MEASURES[key].label)}</dt><dd>{value}</dd></div>" for key, value in _values(figures)
    )
    return (
        f'<figure><figcaption><kbd aria-hidden="true">{number}</kbd> {escape(name)}</figcaption>'
        f'<div class="picture"><img alt="spectrogram" src="{picture}"></div>'
        f'<audio controls preload="metadata" aria-label="{escape(name)}" src="{_data("audio/flac", flac(pcm, rate))}">'
        f"</audio><dl>{values}</dl></figure>"
    )


def _values(figures: Figures) -> Iterable[tuple[str, str]]:
    for key in ON_CARDS:
        if key in figures.values:
            yield key, f"{figures.values[key]:.{MEASURES[key].digits}f}"
        elif key in figures.missing:
            yield key, f'<span title="{escape(figures.missing[key])}">none</span>'


def flac(pcm: Pcm, rate: int) -> bytes:
    """Samples (T,) as FLAC: they decode to the same bits."""
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --quiet: #5d636b; --line: #d9dce1; --card: #f6f7f9;
  --mark: #0b63c5; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171a; --ink: #e8eaed; --quiet: #a0a6ae; --line: #363a40; --card: #1e2125; --mark: #6db1ff; } }
body { margin: 0 auto; max-width: 100rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.8rem; } h2 { margin: 2rem 0 .5rem; } h3 { margin: 0 0 .6rem; font-size: 1.05rem; }
.quiet { color: var(--quiet); font-size: .85rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
th, td { padding: .35rem 1rem .35rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { vertical-align: bottom; white-space: normal; font-weight: 600; color: var(--quiet); }
th[scope=row] { position: sticky; left: 0; background: var(--paper); text-align: left; font-weight: 500; }
tr.original, tr.baseline { color: var(--quiet); }
details dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; } dd { margin: 0; }
kbd { border: 1px solid var(--line); border-radius: .25rem; padding: 0 .35rem; font: .8rem ui-monospace, monospace; }
.clip { margin: 1.6rem 0; padding-top: 1rem; border-top: 1px solid var(--line); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .9rem; }
figure { margin: 0; padding: .7rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
figure.on { border-color: var(--mark); box-shadow: 0 0 0 1px var(--mark); }
figcaption { min-height: 3rem; margin-bottom: .5rem; font-weight: 600; overflow-wrap: anywhere; }
.picture { position: relative; } .picture img { display: block; width: 100%; height: 8rem; border-radius: .25rem; }
.picture::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--at, 0); width: 2px;
  background: #fff; opacity: 0; } .on .picture::after { opacity: .9; }
audio { display: block; width: 100%; margin: .5rem 0; }
figure dl { margin: 0; font-size: .8rem; }
figure dl div { display: flex; justify-content: space-between; gap: .5rem; } dt { color: var(--quiet); }
figure dd { font-variant-numeric: tabular-nums; }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
"""

SCRIPT = """
let current = null;
const card = player => player.closest("figure");
for (const player of document.querySelectorAll("audio")) {
  player.addEventListener("play", () => {
    if (current && current !== player) { current.pause(); card(current).classList.remove("on"); }
    current = player;
    card(player).classList.add("on");
  });
  player.addEventListener("timeupdate", () =>
    card(player).style.setProperty("--at", 100 * player.currentTime / player.duration + "%"));
}
document.addEventListener("keydown", event => {
  if (!current || event.ctrlKey || event.altKey || event.metaKey || !/^[0-9]$/.test(event.key)) return;
  event.preventDefault();
  if (event.key === "0") { current.pause(); return; }
  const next = current.closest(".clip").querySelectorAll("audio")[event.key - 1];
  if (!next) return;
  next.currentTime = current.ended ? 0 : current.currentTime;
  next.play();
  next.focus();
});
"""
