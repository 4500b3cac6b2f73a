"""Every YAML composes to its checked dataclass, every field can be overridden, and what is unknown fails by name."""

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

import configs
from data.dataset import CropConfig
from data.mel import MelConfig
from data.prepare import PrepareConfig
from distill.student import StudentSize
from recipes.configuration import ConfigError, configure, show
from recipes.distill_student import DistillConfig
from recipes.train_classifier import TrainClassifierConfig
from recipes.train_teacher import TrainConfig, teacher_config
from wavenet.distributions import OutputKind
from wavenet.network import StackConfig
from wavenet.training.trainer import Precision

CONFIGS = Path(configs.__file__).parent
SCHEMAS = {
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "distill": DistillConfig,
    "train-classifier": TrainClassifierConfig,
}
NEEDED = {
    "prepare": [],
    "train": ["data=corpus"],
    "distill": ["data=corpus", "teacher_checkpoint=runs/teacher"],
    "train-classifier": ["data=corpus"],
}
GROUPS = {
    "prepare": ["corpus", "mel"],
    "train": ["teacher", "output", "mel", "optim", "trainer"],
    "distill": ["student", "losses", "optim", "trainer"],
    "train-classifier": ["optim", "trainer"],
}
OF_OTHER_CORPORA = {"corpus.root", "corpus.download", "corpus.microphone"}  # than the default, eSpeak
EXPERIMENTS = {"train": "teacher", "distill": "student"}  # how the names of the experiments of a command end


def presets(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def choices() -> list[tuple[str, str]]:
    """(command, "group=preset") for every preset of every group of every command."""
    found = [
        (name, f"{group}={preset}") for name, groups in GROUPS.items() for group in groups for preset in presets(group)
    ]
    return found + [
        (name, f"experiment={preset}")
        for name, ending in EXPERIMENTS.items()
        for preset in presets("experiment")
        if preset.endswith(ending)
    ]


def compose(name: str, *overrides: str) -> PrepareConfig | TrainConfig | DistillConfig | TrainClassifierConfig:
    return configure(name, [*NEEDED[name], *overrides], SCHEMAS[name])


@pytest.mark.parametrize(("name", "choice"), choices())
def test_every_preset_composes_to_the_checked_dataclass(name: str, choice: str) -> None:
    root = ["corpus.root=recordings"] if choice == "corpus=folder" else []
    assert isinstance(compose(name, choice, *root), SCHEMAS[name])


@pytest.mark.parametrize("name", ["train", "distill", "train-classifier"])
def test_what_a_trainer_preset_says_holds(name: str) -> None:
    """Whatever the command's own default is."""
    composed = asdict(compose(name, "trainer=tiny"))["trainer"]
    said = yaml.safe_load((CONFIGS / "trainer" / "tiny.yaml").read_text())
    assert {key: composed[key] for key in said.keys() - {"run"}} == {key: said[key] for key in said.keys() - {"run"}}


def test_every_yaml_belongs_to_a_command() -> None:
    """None is left out of the test above, and none is dead."""
    composed = {f"{choice.replace('=', '/')}.yaml" for _, choice in choices()} | {f"{name}.yaml" for name in SCHEMAS}
    assert {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")} == composed


@pytest.mark.parametrize(
    ("preset", "stack", "context"),
    [  # layers, cycle, kernel, residual, gate (both halves), skip
        ("wavenet2016", (30, 10, 2, 64, 128, 256), 128),
        ("paper", (30, 10, 3, 512, 512, 256), 128),
        ("base", (24, 6, 3, 128, 256, 128), 128),
        ("small", (20, 10, 3, 64, 128, 64), 128),
        ("tiny", (6, 6, 3, 16, 32, 16), 16),
    ],
)
def test_the_teacher_presets_are_the_published_sizes(preset: str, stack: tuple[int, ...], context: int) -> None:
    teacher = configure("train", ["data=corpus", f"teacher={preset}"], TrainConfig).teacher
    assert teacher.stack == StackConfig(*stack)
    assert teacher.context == context


def test_no_teacher_preset_is_unknown_to_the_test_above() -> None:
    assert presets("teacher") == ["base", "paper", "small", "tiny", "wavenet2016"]


@pytest.mark.parametrize(
    ("preset", "flows", "residual", "gate"),
    [
        ("paper", [10, 10, 10, 30], 64, 128),
        ("small", [10, 10, 10, 10], 64, 128),
        ("fast", [10, 10, 10, 10], 32, 64),
        ("tiny", [4, 4], 16, 32),
    ],
)
def test_the_student_presets_are_the_published_sizes(preset: str, flows: list[int], residual: int, gate: int) -> None:
    student = configure("distill", [*NEEDED["distill"], f"student={preset}"], DistillConfig).student
    assert student == StudentSize(flows=flows, cycle=10, kernel=3, residual=residual, gate=gate)


@pytest.mark.parametrize(
    ("preset", "rate", "bands", "hop", "fmax"),
    [("22k", 22050, 80, 256, 8000.0), ("24k", 24000, 100, 256, 12000.0), ("16k", 16000, 80, 200, 8000.0)],
)
def test_the_mel_presets(preset: str, rate: int, bands: int, hop: int, fmax: float) -> None:
    mel = configure("prepare", [f"mel={preset}"], PrepareConfig).mel
    assert (mel.sample_rate, mel.n_mels, mel.hop_length, mel.fmax) == (rate, bands, hop, fmax)


def test_the_mel_preset_22k_is_the_default() -> None:
    assert configure("prepare", [], PrepareConfig).mel == MelConfig()


def test_what_an_experiment_says_holds_and_what_is_given_holds_over_it() -> None:
    given = ["data=corpus", "experiment=demo_teacher"]
    config = configure("train", given, TrainConfig)
    assert (config.crops.left_frames, config.clips, config.trainer.run) == (2, 1, config.run)
    assert configure("train", [*given, "clips=7"], TrainConfig).clips == 7


def test_network_output_and_mel_are_chosen_beside_each_other() -> None:
    config = configure("train", ["data=corpus", "teacher=paper", "output=mulaw", "mel=24k"], TrainConfig)
    model = teacher_config(config, n_speakers=3)
    assert (model.stack.residual, model.output.kind, model.n_mels, model.n_speakers) == (512, OutputKind.mulaw, 100, 3)


@pytest.mark.parametrize(
    ("speaker", "n_speakers", "told"),
    [("null", 1, 0), ("null", 3, 3), ("true", 3, 3), ("false", 1, 0), ("false", 3, 0)],
)
def test_a_teacher_is_told_the_speaker_where_there_are_several_unless_it_is_not_to_be(
    speaker: str, n_speakers: int, told: int
) -> None:
    config = configure("train", ["data=corpus", f"condition.speaker={speaker}"], TrainConfig)
    assert teacher_config(config, n_speakers).n_speakers == told


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_field_can_be_overridden_by_its_own_value(name: str) -> None:
    """All leaves of the composed configuration, given back as overrides, leave it as it is."""
    whole = yaml.safe_load(show(name, NEEDED[name], SCHEMAS[name]))
    given = [f"{key}={hydra_text(value)}" for key, value in leaves(whole) if key not in OF_OTHER_CORPORA]
    assert len(given) > 10
    assert yaml.safe_load(show(name, given, SCHEMAS[name])) == whole


@pytest.mark.parametrize(
    ("name", "override", "path", "value"),
    [
        ("prepare", "workers=0", "workers", 0),
        ("prepare", "trim_db=40", "trim_db", 40.0),
        ("prepare", "corpus.voices=[en-us,en-gb]", "corpus.voices", ["en-us", "en-gb"]),
        ("prepare", "corpus=vctk corpus.microphone=mic2", "corpus.microphone", "mic2"),
        ("prepare", "corpus=ljspeech corpus.download=true", "corpus.download", True),
        ("prepare", "corpus=folder corpus.root=x", "corpus.root", "x"),
        ("prepare", "mel.hop_length=128", "mel.hop_length", 128),
        ("train", "teacher.stack.layers=7", "teacher.stack.layers", 7),
        ("train", "output.mixtures=3", "output.mixtures", 3),
        ("train", "optim.kind=adamw optim.weight_decay=0.01", "optim.weight_decay", 0.01),
        ("train", "trainer.dtype=bfloat16", "trainer.dtype", Precision.bfloat16),
        ("train", "run=elsewhere", "trainer.run", "elsewhere"),
        ("train", "crops.left_frames=4", "crops.left_frames", 4),
        ("distill", "student.flows=[3,3,3]", "student.flows", [3, 3, 3]),
        ("distill", "losses.kl.draws=8", "losses.kl.draws", 8),
        ("distill", "losses.power.fft_sizes=[64]", "losses.power.fft_sizes", [64]),
        ("distill", "run=elsewhere", "trainer.run", "elsewhere"),
        ("distill", "losses.perceptual.classifier=ear", "losses.perceptual.classifier", "ear"),
        ("train-classifier", "voice=en-gb", "voice", "en-gb"),
        ("train-classifier", "classifier.layers=[3,5]", "classifier.layers", [3, 5]),
    ],
)
def test_an_override_reaches_its_field(name: str, override: str, path: str, value: object) -> None:
    reached: object = compose(name, *override.split())
    for part in path.split("."):
        reached = getattr(reached, part)
    assert reached == value


@pytest.mark.parametrize(
    ("name", "override", "named"),
    [
        ("train", "trainr.steps=3", "trainr"),
        ("train", "trainer.stepz=3", "stepz"),
        ("train", "+trainer.stepz=3", "stepz"),
        ("train", "teacher.stack.skips=3", "skips"),
        ("prepare", "mels=22k", "mels"),
        ("distill", "losses.kl.wieght=1", "wieght"),
        ("train", "teacher=giant", "giant"),
        ("distill", "student=giant", "giant"),
        ("train", "experiment=none_such", "none_such"),
        ("train", "trainer.steps=many", "many"),
        ("train", "output.kind=softmax", "softmax"),
        ("train", "trainer.dtype=float16", "float16"),
        ("train", "justaword", "justaword"),
        ("train", "trainer.steps=[", r"trainer\.steps=\["),
    ],
)
def test_what_is_unknown_or_of_another_type_is_refused_by_name_in_one_line(
    name: str, override: str, named: str
) -> None:
    with pytest.raises(ConfigError, match=named) as refused:
        compose(name, override)
    assert "\n" not in str(refused.value)


def test_an_unknown_preset_is_answered_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"giant.*base.*paper.*small.*tiny.*wavenet2016"):
        compose("train", "teacher=giant")


@pytest.mark.parametrize("missing", ["data", "teacher_checkpoint"])
def test_a_value_that_must_be_given_is_asked_for_by_name(missing: str) -> None:
    given = [override for override in NEEDED["distill"] if not override.startswith(f"{missing}=")]
    with pytest.raises(ConfigError, match=rf"{missing} has no value: pass {missing}=\.\.\."):
        configure("distill", given, DistillConfig)


@pytest.mark.parametrize(
    ("name", "overrides", "rule"),
    [
        ("train", "trainer.steps=0", "steps is 0; it must be at least 1"),
        ("train", "teacher.stack.gate=33", "gate is 33.*even"),
        ("train", "mel.fmax=20000", "fmax"),
        ("train", "crops.frames=0", "frames must be at least 1, not 0"),
        ("train", "crops.left_frames=-1", "crops.left_frames is -1"),
        ("train", "clips=-1", "clips is -1"),
        ("distill", "clips=-1", "clips is -1"),
        ("train", "input_dropout=1", "input_dropout is 1.0"),
        ("train", "input_noise=-0.1", "input_noise is -0.1"),
        ("train", "hearing.steps=-1", "hearing.steps is -1, but must be at least 0"),
        ("train", "hearing.frames=0", "hearing.frames is 0"),
        ("distill", "losses.kl.weight=0", "contrastive.weight is 0.3"),
        ("distill", "losses=kl losses.kl.weight=0", "every weight"),
        ("distill", "student.flows=[]", "flows is empty"),
        ("prepare", "corpus=folder", "corpus.root is empty"),
        ("prepare", "valid=0", "valid and test"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_with_the_rule(name: str, overrides: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        compose(name, *overrides.split())


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_shown_is_what_is_run(name: str) -> None:
    overrides = NEEDED[name]
    shown = OmegaConf.merge(OmegaConf.structured(SCHEMAS[name]), OmegaConf.create(show(name, overrides, SCHEMAS[name])))
    assert asdict(OmegaConf.to_object(shown)) == asdict(compose(name))


def test_the_crops_of_the_defaults_are_those_of_the_dataclass() -> None:
    config = configure("train", ["data=corpus"], TrainConfig)
    assert (config.crops.frames, config.crops.random_gain_db) == (CropConfig().frames, CropConfig().random_gain_db)


def leaves(tree: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in tree.items():
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found


def hydra_text(value: object) -> str:
    """A value as Hydra's grammar writes it."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return "[" + ",".join(map(hydra_text, value)) + "]"
    return f"'{value}'" if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
