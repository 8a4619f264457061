from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import PositiveInt, ValidationError, model_validator

from runtime.errors import UserError
from runtime.settings import (
    Fraction,
    Settings,
    build_settings,
    load_settings,
    save_settings,
    to_dict,
)


class Optimizer(Settings):
    renamed = {"lr": "learning_rate"}
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)


class Stage(Settings):
    name: str
    steps: int = 1


class Config(Settings):
    data: Path
    steps: PositiveInt = 10
    resume: bool = False
    precision: Literal["no", "bf16"] = "no"
    note: str | None = None
    sizes: tuple[int, ...] = ()
    dropout: Fraction = 0.0
    optimizer: Optimizer = Optimizer()
    teacher: Optimizer | None = None
    stages: list[Stage] = []
    weights: dict[str, float] = {}
    extra: dict[str, Any] = {}

    @model_validator(mode="after")
    def check(self) -> "Config":
        if self.steps == 13:
            raise ValueError("steps 13 brings bad luck: take 14.")
        return self


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
    config = load_settings(Config, path)
    assert config.data == Path("some/where")
    assert config.sizes == (8, 16)
    assert config.optimizer == Optimizer(learning_rate=1.0, betas=(0.8, 0.9))
    assert type(config.optimizer.learning_rate) is float
    assert config.teacher == Optimizer(learning_rate=0.5)
    assert config.stages == [Stage(name="align"), Stage(name="sft", steps=3)]
    assert config.weights == {"a": 1.0}
    assert config.extra == {"anything": [1, "two"]}


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "1E-03", "0.001", ".001", "+1e-3"])
def test_a_float_may_be_written_with_an_exponent(write, text):
    config = load_settings(Config, write(f"data: x\nweights: {{a: {text}}}"))
    assert config.weights["a"] == pytest.approx(1e-3)
    config = load_settings(Config, write("data: x"), [f"optimizer.learning_rate={text}"])
    assert config.optimizer.learning_rate == pytest.approx(1e-3)


def test_saved_settings_load_back_equal(write, tmp_path):
    config = load_settings(
        Config, write("data: x\nnote: '1e-3'\nstages: [{name: a}]\nteacher: {learning_rate: 1e-5}")
    )
    save_settings(config, tmp_path / "saved.yaml")
    assert load_settings(Config, tmp_path / "saved.yaml") == config
    assert build_settings(Config, to_dict(config), "memory") == config


@pytest.mark.parametrize(
    "text",
    ["on", "no", "007", "1_000", "2026-11-30", "1e3", "0x10", "exp #1", "a: b", "[x", "~", "12:30"],
)
def test_texts_that_look_like_something_else_stay_texts_where_the_setting_is_text(
    write, tmp_path, text
):
    config = load_settings(Config, write("data: x"), [f"data={text}", f"note={text}"])
    assert (str(config.data), config.note) == (text, text)
    save_settings(config, tmp_path / "saved.yaml")
    assert load_settings(Config, tmp_path / "saved.yaml") == config


def test_words_of_yaml_1_1_are_texts_in_a_file_too(write):
    config = load_settings(Config, write("data: on\nnote: 2026-11-30\nextra: {a: yes, b: 1_000}"))
    assert (str(config.data), config.note) == ("on", "2026-11-30")
    assert config.extra == {"a": "yes", "b": "1_000"}


def test_overrides_win_over_the_file_and_make_missing_sections(write):
    path = write("data: x\nsteps: 5\noptimizer:\n")
    config = load_settings(
        Config, path, ["steps=7", "steps=8", "optimizer.betas=[0, 1]", "note=null", "data=y=z"]
    )
    assert (config.steps, config.optimizer.betas, config.data) == (8, (0.0, 1.0), Path("y=z"))
    assert config.note is None


def test_no_file_means_defaults_and_overrides():
    assert load_settings(Config, None, ["data=x"]).data == Path("x")


def test_base_is_relative_to_its_file_and_overridden_deeply(write):
    write("data: base\noptimizer: {learning_rate: 0.5, betas: [0, 0]}", "sub/base.yaml")
    path = write("base: sub/base.yaml\noptimizer: {learning_rate: 0.1}")
    config = load_settings(Config, path)
    assert config.data == Path("base")
    assert config.optimizer == Optimizer(learning_rate=0.1, betas=(0.0, 0.0))


def test_a_file_may_begin_with_a_byte_order_mark(write):
    assert load_settings(Config, write("\ufeffdata: x")).data == Path("x")


def test_a_circle_of_bases_is_refused(write):
    write("base: run.yaml", "other.yaml")
    with pytest.raises(UserError, match="its own base"):
        load_settings(Config, write("base: other.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: x\nstep: 5", 'unknown key "step"; did you mean "steps"?'),
        (
            "data: x\noptimizer: {learnin_rate: 1}",
            'unknown key "optimizer.learnin_rate"; did you mean "optimizer.learning_rate"?',
        ),
        ("data: x\nlearning_rate: 1", 'did you mean "optimizer.learning_rate"?'),
        ("data: x\noptimizer: {lr: 1}", '"optimizer.lr" is called "learning_rate" now'),
        ("data: x\nstages: [{name: a, stepz: 1}]", 'did you mean "stages[0].steps"?'),
        ("data: x\nzzzz: 1", "known keys here are data, steps"),
        ("steps: 5", 'required key "data" is missing'),
        ("data: x\nstages: [{}]", 'required key "stages[0].name" is missing'),
        ("data: x\nsteps: ten", "\"steps\" must be a valid integer, not 'ten'"),
        ("data: x\nsteps: true", '"steps" must be a valid integer, not True'),
        ("data: x\nsteps: 1.5", '"steps" must be a valid integer, not 1.5'),
        ("data: x\nresume: 1", '"resume" must be a valid boolean, not 1'),
        ("data: x\nnote: 3", '"note" must be a valid string, not 3'),
        ("data:", '"data" must be a valid string, not null'),
        ("data: x\nsizes: [1, b]", "\"sizes[1]\" must be a valid integer, not 'b'"),
        ("data: x\noptimizer: {betas: [1]}", '"optimizer.betas[1]" is missing'),
        ("data: x\noptimizer: fast", "\"optimizer\" must be an object, not 'fast'"),
        ("data: x\nprecision: bf61", "must be one of no, bf16, not 'bf61'; did you mean \"bf16\"?"),
        ("data: x\nsteps: 0", '"steps" must be greater than 0, not 0'),
        ("data: x\ndropout: 1.5", '"dropout" must be less than or equal to 1, not 1.5'),
        ("data: x\ndropout: .nan", '"dropout" must be a finite number'),
        ("data: x\nsteps: 13", "steps 13 brings bad luck: take 14"),
        ("data: [x", "not valid YAML: line 1"),
        ("data: x\nsteps: 1\nsteps: 2", 'line 3, the key "steps" is given twice'),
        ("just words", "must hold `key: value` lines"),
        ("base: nowhere.yaml", "no such config file"),
    ],
)
def test_every_mistake_names_the_file_and_the_hint(write, text, message):
    path = write(text)
    with pytest.raises(UserError) as caught:
        load_settings(Config, path)
    assert message in str(caught.value)
    assert str(path.parent) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["steps", "=3", "optimizer..betas=1", "steps=[", "steps.x=1"])
def test_an_override_that_cannot_be_read_is_quoted(write, override):
    with pytest.raises(UserError, match="override") as caught:
        load_settings(Config, write("data: x\nsteps: 1"), [override])
    assert override in str(caught.value)


def test_settings_hold_plain_values_only():
    with pytest.raises(UserError, match="plain values"):
        build_settings(Config, {"data": "x", "extra": {"thing": object()}}, "memory")


def test_python_gets_the_same_checks():
    assert Config(data="x", steps=3).data == Path("x")
    with pytest.raises(ValidationError, match="greater than 0"):
        Config(data="x", steps=0)
