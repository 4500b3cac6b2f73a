"""`make demo`: speech -> teacher -> student -> wav files, pictures and figures, in under half an hour on two cores.

    python -m recipes.demo [--corpus FOLDER] [--out DIR] [STAGE.FIELD=VALUE ...]

Recordings of one speaker adapt the voice that ships; synthetic speech, of several, trains everything from nothing.
STAGE is prepare, train or distill, FIELD one of `wavenet STAGE`. Stopped at any moment, the same command goes on from
there.
"""

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from data.audio import AudioError, Wave, read_audio, resample, write_wav
from data.corpora import Utterance, list_corpus
from data.dataset import PreparedCorpus
from data.manifest import DataError
from data.mel import MelError, log_mel
from data.prepare import PrepareConfig, own_settings, prepare
from recipes import benchmark, evaluate
from recipes.cli import report_errors
from recipes.configuration import ConfigError, configure
from recipes.distill_student import DistillConfig, distill
from recipes.evaluate_measures import report
from recipes.pictures import draw_mels
from recipes.synthesize import Options, Summary, synthesize
from recipes.train_teacher import TrainConfig, train
from wavenet.metrics import griffin_lim
from wavenet.sampling.generate import Backend

STAGES = ("prepare", "train", "distill")
FOLDERS = ("out", "run", "trainer.run")
OUT = "--out DIR; of make: DEMO=DIR"
VOICE = "kathleen"
HELD_OUT = 5  # utterances of the test split that the student says
BY_TEACHER = 2  # of them, said by the teacher too, one sample at a time
SECONDS, REPEATS = 2.0, 3  # of what is timed


def main(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[STAGE.FIELD=VALUE]...", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for everything.", show_default="runs/demo, runs/demo-FOLDER-HASH")
    ] = None,
    corpus: Annotated[Path | None, typer.Option(help="Folder of recordings instead of synthetic speech.")] = None,
) -> None:
    """The whole chain, from speech to a student's speech."""
    started = time.perf_counter()
    out = default_folder(corpus) if out is None else out
    given = by_stage(overrides or [])
    data, teacher, student = out / "data", out / "teacher", out / "student"
    prepared, utterances = preparation(out, corpus, given)

    _say(f"1/6 speak with the voice that ships; everything goes to {out}")
    print(greet(out / "hello", prepared, utterances))
    _say("2/6 prepare the corpus")
    print(prepare(prepared))
    voices = PreparedCorpus(data)
    teaching, distilling = training(out, len(voices.speakers), given)
    _say("3/6 train the teacher")
    _finished(train(teaching))
    _say("4/6 distil the student")
    _finished(distill(distilling))
    _say("5/6 say held-out sentences")
    picture = speak(out, voices, teacher, student)
    _say("6/6 judge and time")
    rows = evaluate.evaluate(evaluate.Options([teacher, student], data, out, clips=HELD_OUT, device="cpu"))
    speeds = benchmark.benchmark(teacher, student, out, seconds=SECONDS, repeats=REPEATS, device="cpu", dtype="float32")
    tables = f"{report(rows)}\n\n{benchmark.report(speeds)}\n"
    (out / "figures.md").write_text(tables)
    print(tables)

    _say(f"done in {(time.perf_counter() - started) / 60:.1f} minutes")
    print(f"checkpoints   {teacher}  {student}")
    print(f"audio         {out / 'wavs'}")
    print(f"picture       {picture}")
    print(f"figures       {out / 'figures.md'}  {out / 'evaluation.json'}  {out / 'benchmark.json'}")
    print(f"page          {out / 'evaluation.html'}")
    print(f"curves        tensorboard --logdir {out}")


def default_folder(corpus: Path | None) -> Path:
    """One for each corpus: its name, to be read, and a hash of where it is."""
    if corpus is None:
        return Path("runs/demo")
    place = corpus.resolve()
    return Path(f"runs/demo-{place.name[:40]}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}")


def by_stage(overrides: list[str]) -> dict[str, list[str]]:
    """`train.trainer.steps=9` is trainer.steps=9 for `train`.

    Raises:
        ConfigError: another stage, no value, or one of the folders, which the next stage reads.
    """
    given: dict[str, list[str]] = {stage: [] for stage in STAGES}
    for override in overrides:
        stage, _, field = override.partition(".")
        name, equals, _ = field.partition("=")
        if stage not in given:
            raise ConfigError(f"{override}: there is no stage {stage!r}; begin with one of {', '.join(STAGES)}")
        if not equals:
            raise ConfigError(f"{override}: not of the form STAGE.FIELD=VALUE; give a value, as train.trainer.steps=9")
        if name.lstrip("+") in FOLDERS:
            raise ConfigError(f"{override}: the stages find one another in one folder; choose it with {OUT}")
        given[stage].append(field)
    return given


def preparation(out: Path, corpus: Path | None, given: dict[str, list[str]]) -> tuple[PrepareConfig, list[Utterance]]:
    """What `prepare` is to do, and on what; writes nothing.

    Raises:
        ValueError: no recordings, a folder that holds another corpus, or an override that any stage would refuse.
    """
    source = ["corpus=espeak"] if corpus is None else ["corpus=folder", _path("corpus.root", corpus)]
    fields = [*source, _path("out", out / "data"), "pitch=true", *given["prepare"]]
    config = configure("prepare", fields, PrepareConfig)
    utterances, _ = list_corpus(config.corpus)
    if not utterances:
        raise ValueError(f"{config.corpus.root}: no sound files in this corpus; name a folder that holds recordings")
    training(out, len({utterance.speaker for utterance in utterances}), given)  # refuses now, rather than after hours
    try:
        own_settings(config)
    except DataError as error:
        raise DataError(str(error).replace("out=DIR", OUT)) from None
    return config, utterances


def training(out: Path, speakers: int, given: dict[str, list[str]]) -> tuple[TrainConfig, DistillConfig]:
    """What `train` and `distill` are to do.

    Raises:
        ConfigError: an override that they do not know, or not with this value.
    """
    kind = "adapt" if speakers == 1 else "demo"
    data, teacher = _path("data", out / "data"), out / "teacher"
    fields = [f"experiment={kind}_teacher", data, _path("run", teacher), *given["train"]]
    teaching = configure("train", fields, TrainConfig)
    origin = _path("teacher_checkpoint", teacher)
    fields = [f"experiment={kind}_student", data, origin, _path("run", out / "student"), *given["distill"]]
    return teaching, configure("distill", fields, DistillConfig)


def greet(folder: Path, config: PrepareConfig, utterances: list[Utterance]) -> Summary:
    """The first utterance that has a mel, as it is, and as the shipped voice says it from that.

    Raises:
        ValueError: there is none.
    """
    for utterance in utterances:
        try:
            wav, rate = utterance.read()
            log_mel(torch.from_numpy(resample(wav, rate, config.mel.sample_rate)), config.mel)
        except (AudioError, MelError) as error:
            reason = f"{utterance.id}: {error}"  # `prepare` tells all of them
            continue
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / "hello.wav"
        write_wav(source, wav, rate)
        return synthesize(Options([source], Path(VOICE), folder / VOICE))
    raise ValueError(
        f"{config.corpus.root}: none of its {len(utterances)} sound files can be spoken, as the last: {reason}"
    )


def speak(out: Path, corpus: PreparedCorpus, teacher: Path, student: Path) -> Path:
    """Held-out utterances as recorded, by student, by teacher and by Griffin-Lim; a picture of the first."""
    wavs, rate = out / "wavs", corpus.mel.sample_rate
    entries = corpus.entries("test")[:HELD_OUT]
    originals = [wavs / "original" / f"{entry.id}.wav" for entry in entries]
    for entry, path in zip(entries, originals, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_wav(path, corpus.wav(entry) / corpus.gain, rate)
    first = entries[0]
    (wavs / "griffin-lim").mkdir(exist_ok=True)
    write_wav(wavs / "griffin-lim" / f"{first.id}.wav", griffin_lim(corpus.mel_of(first), corpus.mel, seed=0), rate)
    for entry, path in zip(entries, originals, strict=True):
        speaker = corpus.speakers[entry.speaker] if len(corpus.speakers) > 1 else None
        print(synthesize(Options([path], student, wavs / "student", speaker=speaker)))
        if path in originals[:BY_TEACHER]:
            print(synthesize(Options([path], teacher, wavs / "teacher", speaker=speaker, sequential=Backend.numba)))

    def mel_of(who: str) -> Wave:
        return log_mel(torch.from_numpy(read_audio(wavs / who / f"{first.id}.wav")[0]), corpus.mel).numpy()

    picture = out / "spectrograms.png"
    draw_mels(picture, {who: mel_of(who) for who in ("original", "student", "teacher", "griffin-lim")}, corpus.mel)
    return picture


def _path(field: str, path: Path) -> str:
    """FIELD='PATH': whatever characters it has."""
    quoted = str(path).replace("'", r"\'")
    return f"{field}='{quoted}'"


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _finished(done: bool) -> None:
    if not done:
        sys.exit(1)


if __name__ == "__main__":
    with report_errors():
        typer.run(main)
