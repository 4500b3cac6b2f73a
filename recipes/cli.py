"""The command `wavenet`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

app = typer.Typer(
    help="Parallel WaveNet: prepare a corpus, train a teacher, distil a student, speak.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Sampler(StrEnum):
    """Who speaks: a student in one parallel pass, or a teacher one sample at a time on one of three backends."""

    parallel = "parallel"
    naive = "naive"
    cached = "cached"
    numba = "numba"


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class Split(StrEnum):
    train = "train"
    valid = "valid"
    test = "test"


Overrides = Annotated[list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", show_default=False)]
Show = Annotated[str | None, typer.Option("--cfg", metavar="job", help="Print the configuration and stop.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: a GPU where there is one.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the noise; the same seed gives the same file.")]
Rounds = Annotated[int, typer.Option(min=0, help="Of the correction towards the mel; 0: the student alone.")]
Schema = TypeVar("Schema")


def _configured(name: str, overrides: list[str] | None, cfg: str | None, schema: type[Schema]) -> Schema:
    from recipes.configuration import configure, show

    if cfg not in (None, "job"):
        raise typer.BadParameter(f"{cfg!r}: the only choice is job", param_hint="--cfg")
    if cfg == "job":
        typer.echo(show(name, overrides or [], schema), nl=False)
        raise typer.Exit
    return configure(name, overrides or [], schema)


@app.command(epilog="Example: wavenet prepare corpus=folder corpus.root=recordings out=runs/data")
def prepare(overrides: Overrides = None, cfg: Show = None) -> None:
    """Make sound files into features for training: any field of configs/prepare.yaml as FIELD=VALUE."""
    from data.prepare import PrepareConfig
    from data.prepare import prepare as run
    from recipes.outputs import check_writable

    config = _configured("prepare", overrides, cfg, PrepareConfig)
    check_writable(config.out)
    typer.echo(run(config))


@app.command(
    epilog="Example: wavenet train data=runs/data run=runs/teacher teacher=small output=mol trainer.steps=50000"
)
def train(overrides: Overrides = None, cfg: Show = None) -> None:
    """Train a teacher, or go on training it: any field of configs/train.yaml as FIELD=VALUE."""
    from recipes.train_teacher import TrainConfig
    from recipes.train_teacher import train as run

    _exit_unless(run(_configured("train", overrides, cfg, TrainConfig)))


@app.command(
    epilog="Example: wavenet distill data=runs/data teacher_checkpoint=runs/teacher run=runs/student student=small"
)
def distill(overrides: Overrides = None, cfg: Show = None) -> None:
    """Distil a student from a teacher, or go on: any field of configs/distill.yaml as FIELD=VALUE."""
    from recipes.distill_student import DistillConfig
    from recipes.distill_student import distill as run

    _exit_unless(run(_configured("distill", overrides, cfg, DistillConfig)))


@app.command(epilog="Example: wavenet train-classifier data=runs/data run=runs/classifier voice=en-us")
def train_classifier(overrides: Overrides = None, cfg: Show = None) -> None:
    """Train the ear of the perceptual loss, or go on: any field of configs/train-classifier.yaml as FIELD=VALUE."""
    from recipes.train_classifier import TrainClassifierConfig
    from recipes.train_classifier import train_classifier as run

    _exit_unless(run(_configured("train-classifier", overrides, cfg, TrainClassifierConfig)))


@app.command(
    epilog="Examples: wavenet synthesize speech.wav --checkpoint runs/student --out out; "
    "wavenet synthesize mels/ --checkpoint runs/teacher --backend numba --out out"
)
def synthesize(
    inputs: Annotated[
        list[Path], typer.Argument(help="Sound files (their mel is taken), .npy mels (M, L), or folders.")
    ],
    checkpoint: Annotated[Path, typer.Option(help="A student; with --backend naive, cached or numba, a teacher.")],
    out: Annotated[Path, typer.Option(help="Folder for one 16-bit wav per input, under its stem.")],
    device: Device = "auto",
    dtype: Annotated[Dtype, typer.Option(help="Of the student's matrix products.")] = Dtype.float32,
    seed: Seed = 0,
    temperature: Annotated[float, typer.Option(min=0, help="Factor on the student's noise.")] = 1.0,
    speaker: Annotated[str | None, typer.Option(help="Name of a speaker, where the voice has several.")] = None,
    backend: Annotated[Sampler, typer.Option(help="parallel: a student; the others: a teacher.")] = Sampler.parallel,
    rounds: Rounds = 8,
    plot: Annotated[bool, typer.Option("--plot", help="Write spectrogram pictures too.")] = False,
) -> None:
    """Speak: a waveform for every sound file or mel."""
    from recipes.synthesize import Options
    from recipes.synthesize import synthesize as run
    from wavenet.sampling.generate import Backend

    sequential = None if backend is Sampler.parallel else Backend(backend.value)
    options = Options(
        inputs, checkpoint, out, device, dtype.value, seed, temperature, speaker, sequential, rounds, plot
    )
    summary = run(options)
    typer.echo(summary)
    if summary.refused:
        raise ValueError(f"{len(summary.refused)} of the inputs refused:\n  " + "\n  ".join(summary.refused))


@app.command(
    epilog="Examples: wavenet evaluate --checkpoint runs/teacher --checkpoint runs/student --data runs/data; "
    "wavenet evaluate --checkpoint runs/student --data recordings --seconds 60 --out out"
)
def evaluate(
    checkpoint: Annotated[list[Path], typer.Option(help="Teacher or student; may be repeated.")],
    data: Annotated[Path, typer.Option(help="Prepared corpus, or a folder of sound files.")],
    out: Annotated[Path, typer.Option(help="Folder for evaluation.json, .md, .html and spectrograms.")] = Path(
        "runs/evaluation"
    ),
    split: Annotated[Split | None, typer.Option(help="Of a prepared corpus; by default test.")] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Clips at most.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="Of audio at most, but always one clip.")] = None,
    sample: Annotated[bool, typer.Option(help="Let teachers speak, one sample at a time.")] = True,
    device: Device = "auto",
    dtype: Annotated[Dtype, typer.Option(help="Of a student's matrix products.")] = Dtype.float32,
    seed: Seed = 0,
    rounds: Rounds = 8,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that measure; by default one per core, 0: this one.")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Griffin-Lim, WORLD and noise beside the checkpoints.")] = True,
) -> None:
    """PESQ, STOI, spectra, pitch, silence and speed beside the original, Griffin-Lim and WORLD; a page to hear."""
    from recipes.evaluate import Options
    from recipes.evaluate import evaluate as run
    from recipes.evaluate_measures import report

    chosen = None if split is None else split.value
    options = Options(
        checkpoint, data, out, chosen, clips, seconds, sample, device, dtype.value, seed, rounds, workers, baselines
    )
    typer.echo(report(run(options)))
    typer.echo(f"\npage: {out / 'evaluation.html'}")


@app.command(
    epilog="Examples: wavenet benchmark --only student,training --out runs/benchmark; "
    "wavenet benchmark --teacher runs/teacher --student runs/student --seconds 2"
)
def benchmark(
    teacher: Annotated[Path | None, typer.Option(help="Checkpoint of a teacher, to be timed with a student.")] = None,
    student: Annotated[Path | None, typer.Option(help="Checkpoint of its student.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for benchmark.json and pictures.")] = Path("runs/benchmark"),
    only: Annotated[
        str | None,
        typer.Option(help="Without checkpoints: some of kernels,teacher,student,stream,training,startup."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Without checkpoints; by default all cores.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Without checkpoints: only show that all runs.")] = False,
    seconds: Annotated[float | None, typer.Option(help="Of checkpoints: audio a repetition, 2 by default.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Of checkpoints: runs of a median, 3 by default.")] = None,
    device: Annotated[str | None, typer.Option(help="Of checkpoints: cpu, cuda, cuda:N or auto.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Of a student's matrix products, float32 by default.")] = None,
) -> None:
    """Samples per second: of two checkpoints, or, without any, of kernels, samplers and training steps on this CPU."""
    own: dict[str, Any] = {"seconds": seconds, "repeats": repeats, "device": device, "dtype": dtype}
    suite: dict[str, Any] = {"only": only, "threads": threads, "quick": quick or None}
    own, suite = ({name: value for name, value in given.items() if value is not None} for given in (own, suite))
    if teacher and student:
        from recipes.benchmark.checkpoints import benchmark as compare
        from recipes.benchmark.checkpoints import report

        if suite:
            raise ValueError(f"--{next(iter(suite))} is for a benchmark without --teacher and --student")
        typer.echo(report(compare(teacher, student, out, **own)))
    elif teacher or student:
        raise ValueError("one checkpoint alone cannot be compared: give --teacher and --student, or neither")
    else:
        from recipes.benchmark.suite import run_suite
        from recipes.benchmark.tables import report as report_suite

        if own:
            raise ValueError(f"--{next(iter(own))} is for checkpoints: give --teacher and --student too")
        typer.echo(report_suite(run_suite(out, **suite)))


@app.command(
    epilog="Examples: wavenet serve --checkpoint runs/student; "
    "wavenet serve --checkpoint anna=runs/anna --checkpoint bob=runs/bob --workers 2"
)
def serve(
    checkpoint: Annotated[list[str], typer.Option(help="DIR, or NAME=DIR, of a student; may be repeated.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    device: Device = "auto",
    dtype: Annotated[Dtype, typer.Option(help="Of the students' matrix products.")] = Dtype.float32,
    rounds: Rounds = 8,
    workers: Annotated[int, typer.Option(help="Processes, which share the cores.")] = 1,
    token: Annotated[
        str, typer.Option(envvar="WAVENET_TOKEN", show_envvar=True, help="What clients must show; none by default.")
    ] = "",
    max_seconds: Annotated[float, typer.Option(help="Of an utterance.")] = 60.0,
    max_bytes: Annotated[int, typer.Option(help="Of a body.")] = 16 * 2**20,
    batch: Annotated[int, typer.Option(help="Utterances that take turns.")] = 8,
    queue: Annotated[int, typer.Option(help="Utterances that may wait for that.")] = 32,
    patience: Annotated[
        float, typer.Option(help="Seconds for a body, the next message of a conversation, or reading what is sent.")
    ] = 30.0,
    grace: Annotated[float, typer.Option(help="Seconds for running requests after SIGTERM.")] = 30.0,
) -> None:
    """Answer over HTTP and WebSocket until SIGTERM; SIGHUP reads the checkpoints again."""
    from recipes.run_server import serve as run
    from serve.settings import ServeConfig, named_checkpoints

    limits: dict[str, Any] = {"max_seconds": max_seconds, "max_bytes": max_bytes, "batch": batch}
    limits |= {"queue": queue, "patience": patience, "grace": grace}
    config = ServeConfig(
        named_checkpoints(checkpoint), host, port, device, dtype.value, rounds, workers, token, **limits
    )
    if code := run(config):
        raise typer.Exit(code)


def _exit_unless(finished: bool) -> None:
    if not finished:
        raise typer.Exit(1)


@contextmanager
def report_errors() -> Iterator[None]:
    """Turns an error into one line and exit code 1 (failure) or 2 (bad input). WAVENET_DEBUG=1 shows its origin."""
    try:
        yield
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if os.environ.get("WAVENET_DEBUG"):
            raise
        sys.stderr.write(f"wavenet: {error}\n")
        # What a user can put right in the input is 2; a machine that fails (a full disk) is 1.
        bad_input = isinstance(error, ValueError) and not isinstance(error.__cause__, OSError)
        sys.exit(2 if bad_input else 1)


def main() -> None:
    """Exit codes: 0; 1 failure; 2 bad usage or bad input."""
    with report_errors():
        app()


if __name__ == "__main__":
    main()
