from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from runtime.config import build_config, load_config, save_config, to_dict
from runtime.errors import UserError


@dataclass
class Optimizer:
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


@dataclass
class Stage:
    name: str
    steps: int = 1


@dataclass
class Config:
    data: Path
    steps: int = 10
    resume: bool = False
    precision: Literal["no", "bf16"] = "no"
    note: str | None = None
    sizes: tuple[int, ...] = ()
    optimizer: Optimizer = field(default_factory=Optimizer)
    teacher: Optimizer | None = None
    stages: list[Stage] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    derived: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be positive, not {self.steps}")


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "run.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_every_kind_of_field_is_typed(write):
    path = write(
        "data: some/where\n"
        "precision: bf16\n"
        "sizes: [8, 16]\n"
        "optimizer: {learning_rate: 1, betas: [0.8, 0.9]}\n"
        "teacher: {learning_rate: 0.5}\n"
        "stages: [{name: align}, {name: sft, steps: 3}]\n"
        "weights: {a: 1}\n"
        "extra: {anything: [1, two]}\n"
    )
    config = load_config(Config, path)
    assert config.data == Path("some/where")
    assert config.sizes == (8, 16)
    assert config.optimizer == Optimizer(1.0, (0.8, 0.9))
    assert type(config.optimizer.learning_rate) is float
    assert config.teacher == Optimizer(0.5)
    assert config.stages == [Stage("align"), Stage("sft", 3)]
    assert config.weights == {"a": 1.0}
    assert config.extra == {"anything": [1, "two"]}


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "1E-03", "0.001"])
def test_a_float_may_be_written_with_an_exponent(write, text):
    config = load_config(Config, write("data: x"), [f"optimizer.learning_rate={text}"])
    assert config.optimizer.learning_rate == pytest.approx(1e-3)


def test_saved_config_loads_back_equal(write, tmp_path):
    config = load_config(
        Config, write("data: x\nnote: '1e-3'\nstages: [{name: a}]\nteacher: {learning_rate: 1e-5}")
    )
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(Config, tmp_path / "saved.yaml") == config
    assert build_config(Config, to_dict(config), "memory") == config


def test_overrides_win_over_the_file_and_make_missing_sections(write):
    path = write("data: x\nsteps: 5\noptimizer:\n")
    config = load_config(
        Config, path, ["steps=7", "steps=8", "optimizer.betas=[0, 1]", "note=null", "data=y=z"]
    )
    assert (config.steps, config.optimizer.betas, config.data) == (8, (0.0, 1.0), Path("y=z"))


def test_no_file_means_defaults_and_overrides():
    assert load_config(Config, None, ["data=x"]).data == Path("x")


def test_base_is_relative_to_its_file_and_overridden_deeply(write):
    write("data: base\noptimizer: {learning_rate: 0.5, betas: [0, 0]}", "sub/base.yaml")
    path = write("base: sub/base.yaml\noptimizer: {learning_rate: 0.1}")
    config = load_config(Config, path)
    assert config.data == Path("base")
    assert config.optimizer == Optimizer(0.1, (0.0, 0.0))


def test_a_circle_of_bases_is_refused(write):
    write("base: run.yaml", "other.yaml")
    with pytest.raises(UserError, match="its own base"):
        load_config(Config, write("base: other.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: x\nstep: 5", 'unknown key "step"; did you mean "steps"?'),
        (
            "data: x\noptimizer: {learnin_rate: 1}",
            'unknown key "optimizer.learnin_rate"; did you mean "optimizer.learning_rate"?',
        ),
        ("data: x\nlearning_rate: 1", 'did you mean "optimizer.learning_rate"?'),
        ("data: x\nstages: [{name: a, stepz: 1}]", 'did you mean "stages[0].steps"?'),
        ("data: x\nzzzz: 1", "known keys here are data, steps"),
        ("data: x\nderived: 1", 'unknown key "derived"'),
        ("steps: 5", 'required key "data" is missing'),
        ("data: x\nstages: [{}]", 'required key "stages[0].name" is missing'),
        ("data: x\nsteps: ten", "\"steps\" must be int, not str 'ten'"),
        ("data: x\nsteps: true", '"steps" must be int, not bool True'),
        ("data: x\nsteps: 1.5", '"steps" must be int, not float 1.5'),
        ("data: x\nresume: 1", '"resume" must be bool, not int 1'),
        ("data: x\nnote: 3", '"note" must be str or null, not int 3'),
        ("data:", '"data" must be a path, not null'),
        ("data: x\nsizes: [1, b]", "\"sizes[1]\" must be int, not str 'b'"),
        ("data: x\noptimizer: {betas: [1]}", '"optimizer.betas" must be tuple[float, float]'),
        ("data: x\noptimizer: fast", '"optimizer" must be a mapping of Optimizer settings'),
        ("data: x\nprecision: bf61", "must be one of no, bf16, not 'bf61'; did you mean \"bf16\"?"),
        ("data: x\nsteps: 0", "steps must be positive, not 0"),
        ("data: [x", "not valid YAML: line 1"),
        ("data: x\nsteps: 1\nsteps: 2", 'line 3, the key "steps" is given twice'),
        ("just words", "must hold `key: value` lines"),
        ("base: nowhere.yaml", "no such config file"),
    ],
)
def test_every_mistake_names_the_file_and_the_mend(write, text, message):
    path = write(text)
    with pytest.raises(UserError) as caught:
        load_config(Config, path)
    assert message in str(caught.value)
    assert str(path.parent) in str(caught.value)


@pytest.mark.parametrize("override", ["steps", "=3", "optimizer..betas=1", "steps=[", "steps.x=1"])
def test_an_override_that_cannot_be_read_is_quoted(write, override):
    with pytest.raises(UserError, match="override") as caught:
        load_config(Config, write("data: x\nsteps: 1"), [override])
    assert override in str(caught.value)


def test_a_config_holds_plain_values_only():
    with pytest.raises(TypeError, match="plain values"):
        to_dict(Config(data=Path("x"), extra={"thing": object()}))
