from pathlib import Path
from typing import Annotated, Literal, get_args

import pytest
from pydantic import PositiveInt, TypeAdapter, ValidationError

from runtime.errors import UserError
from runtime.settings import Fraction, Option, Settings
from runtime.value_types import ExistingFile, Names, NumBytes, OutputFolder, Text
from semhitok.command import load
from semhitok.commands import COMMANDS
from semhitok.options import Parser, add_options, read_options


class Sampling(Settings):
    temperature: Fraction | None = None
    """Spread of the choices, at most 100 % of the model's own."""


class Paint(Settings):
    pictures: Annotated[list[ExistingFile], Option(positional=True)]
    """Files to paint over."""
    out: OutputFolder
    """Folder to write."""
    prompt: list[Text] = []
    """What to paint."""
    num_images: PositiveInt = 1
    """Pictures of each prompt."""
    style: Literal["oil", "water"] = "oil"
    """Kind of colours."""
    memory: NumBytes = 80 * 10**9
    """Memory of each GPU (default: 80G)."""
    only: Names | None = None
    """Parts to paint."""
    title: Annotated[list[Text], Option(one_each=True)] = []
    """Words on the picture."""
    overwrite: bool = False
    """Replace what is there."""
    history: bool = True
    """Remember earlier pictures."""
    sampling: Sampling = Sampling()
    """Sampling (default: the model's own)."""


def parser() -> Parser:
    made = Parser("semhitok paint", "Paint.", "semhitok paint a.png --out b")
    add_options(made, Paint)
    return made


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.png").touch()
    return lambda text: read_options(parser(), Paint, ["a.png", "--out", "b", *text.split()])


def test_a_field_is_an_option_with_its_default(read):
    settings = read("")
    assert settings == Paint(pictures=["a.png"], out="b")
    assert settings.num_images == 1


def test_an_option_for_each_entry_takes_no_second_word(read):
    assert read("--title red --title blue").title == ["red", "blue"]
    with pytest.raises(UserError, match="no such file: blue"):  # taken for a picture
        read("--title red blue")


def test_every_kind_of_option_is_read(read):
    settings = read(
        "--prompt one two --prompt three --num-images 3 --style water --memory 2GiB --only a,b "
        "--overwrite --no-history --temperature 0.5"
    )
    assert settings.prompt == ["one", "two", "three"]
    assert (settings.num_images, settings.style, settings.memory) == (3, "water", 2 * 2**30)
    assert settings.only == ["a", "b"]
    assert (settings.overwrite, settings.history) == (True, False)
    assert settings.sampling.temperature == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--num-images 0", "--num-images must be greater than 0, not '0'"),
        ("--num-images many", "--num-images must be a valid integer"),
        ("--num-images 1 --num-images 2", "--num-images is given twice"),
        ("--style watr", "--style must be one of oil, water, not 'watr'; did you mean \"water\"?"),
        ("--memory 80", "--memory: give a size such as 80G or 80GiB, not '80'"),
        ("--only a,,b", "--only: give different names with commas between them"),
        ("--temperature nan", "--temperature must be a finite number"),
        ("--temperature 2", "--temperature must be less than or equal to 1"),
        ("--num 3", "unrecognized arguments: --num"),
        ("no.png", "PICTURES: no such file: no.png"),
    ],
)
def test_a_slip_is_one_sentence_with_the_name_of_the_option(read, arguments, message):
    with pytest.raises(UserError) as caught:
        read(arguments)
    assert message in str(caught.value)
    assert "semhitok paint --help" in str(caught.value)


def test_a_missing_file_is_named(read):
    with pytest.raises(UserError, match=r"no such file: b\.png"):
        read_options(parser(), Paint, ["b.png", "--out", "b"])


def test_a_required_option_is_named(tmp_path):
    with pytest.raises(UserError, match=r"required: .*--out"):
        read_options(parser(), Paint, ["a.png"])


def test_the_help_says_name_value_text_and_default():
    shown = " ".join(parser().format_help().split())
    assert "--num-images N pictures of each prompt (default: 1)" in shown
    assert "--style {oil,water} kind of colours (default: oil)" in shown
    assert "--memory SIZE memory of each GPU (default: 80G)" in shown
    assert "--only NAME,... parts to paint" in shown
    assert "--history, --no-history" in shown
    assert "Sampling (default: the model's own):" in shown
    assert "at most 100 % of the model's own" in shown
    assert "FILE files to paint over" in shown


def test_no_command_takes_an_empty_name_for_the_working_folder():
    checked = 0
    for command in COMMANDS.values():
        for field in load(command.settings).model_fields.values():
            kind = Annotated[field.annotation, None, *field.metadata]
            if Path in (field.annotation, *map(plain, get_args(field.annotation))):
                given = {"list": [" "], "dict": {"a": " "}}.get(kind_name(field), " ")
                with pytest.raises(ValidationError, match="the name is empty"):
                    TypeAdapter(kind).validate_python(given)
                checked += 1
    assert checked > 30


def kind_name(field):
    return str(field.annotation).partition("[")[0]


def plain(annotation):
    return get_args(annotation)[0] if get_args(annotation) else annotation
