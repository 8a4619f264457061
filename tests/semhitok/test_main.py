import argparse
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest

import semhitok
from runtime.errors import UserError
from semhitok import main as new_cli
from semhitok import old_main as cli
from semhitok.old_commands import build_parser

ROOT = Path(semhitok.__file__).parents[1]


def all_commands(parser=None):
    """Every parser of the command line, sub-commands of sub-commands included."""
    parser = parser or build_parser()
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from all_commands(child)


COMMANDS = {parser.prog: parser for parser in all_commands()}
RUNNABLE = {prog: parser for prog, parser in COMMANDS.items() if parser.get_default("target")}


def example_of(parser) -> list[str]:
    return shlex.split(parser.epilog.partition("\n")[2])


@pytest.fixture
def quickstart(tmp_path, monkeypatch):
    """An empty stand-in for what `semhitok quickstart` leaves, in the working directory."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "quickstart"
    for folder in ("data/train", "data/test", "codes/train", "images", "eval/reconstruction"):
        (run / folder).mkdir(parents=True)
    for folder in ("decoder/model", "mllm/model"):
        (run / folder).mkdir(parents=True)
        (run / folder / "config.json").write_text("{}")
    for model in ("flat", "lora/model"):
        (tmp_path / "runs" / model).mkdir(parents=True)
        (tmp_path / "runs" / model / "config.json").write_text("{}")
    (run / "images" / "test-0.png").write_bytes(b"")
    configs = tmp_path / "configs" / "quickstart"
    configs.mkdir(parents=True)
    for phase in ("teacher", "semantic", "pixel", "decoder", "mllm"):
        (configs / f"{phase}.yaml").write_text("")
    return run


@pytest.fixture
def command(monkeypatch):
    """Puts a function in the place of `quickstart`, the only command that needs no input."""

    def install(function):
        module = types.ModuleType("semhitok.quickstart")
        module.command = function
        monkeypatch.setitem(sys.modules, "semhitok.quickstart", module)

    return install


def failure(capsys, argv) -> str:
    """The one sentence on stderr of a call that must fail."""
    assert new_cli.main(argv) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("semhitok: error: ")
    return output.err


@pytest.mark.parametrize("arguments", [["--help"], ["train", "semantic", "--help"], ["quickstart"]])
def test_help_and_parsing_import_nothing_heavy(arguments):
    code = (
        "import contextlib, io, sys; from semhitok.old_main import parse\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    parse(sys.argv[1:])\n"
        "print(*{'torch', 'transformers', 'numpy', 'yaml', 'tqdm'} & set(sys.modules))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert finished.stdout.strip() == ""


@pytest.mark.parametrize("prog", COMMANDS)
def test_every_help_has_a_line_and_an_example_of_itself(prog, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([*prog.split()[1:], "--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert re.search(r"^[A-Z].*", shown, re.MULTILINE)
    assert f"example:\n  {prog}" in shown


@pytest.mark.parametrize("prog", COMMANDS)
def test_every_example_parses_after_the_quickstart(prog, quickstart):
    program, *argv = example_of(COMMANDS[prog])
    assert program == "semhitok"
    assert ":" in cli.parse(argv).target


def test_every_target_is_a_module_of_the_house():
    # A string that nothing imports must still be told when its file moves.
    for parser in RUNNABLE.values():
        module, function = parser.get_default("target").split(":")
        path = ROOT / module.replace(".", "/")
        assert function == "command"
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("generate --model {m} --out o --prompt ''", "the text is empty"),
        ("generate --model {m} --out o --prompt '  '", "the text is empty"),
        ("ask --model {m} --image {i} --question ' '", "the text is empty"),
        ("ask --model {m} --image no.png --question q", "no such file: no.png"),
        ("ask --model {m} --image . --question q", "is a folder; name a file"),
        ("ask --model nowhere --image {i} --question q", "no such folder: nowhere"),
        ("ask --model {i} --image {i} --question q", "is a file; name a folder"),
        ("ask --model {d} --image {i} --question q", "holds no model"),
        ("ask --model runs/quickstart/mllm --image {i} --question q", "did you mean"),
        ("ask --model {m} --image {i} --question q --max-new-tokens 0", "above 0"),
        ("generate --model {m} --out o --prompts no.txt", "no such file"),
        ("generate --model {m} --out o --prompts {i}", "is empty"),
        ("generate --model {m} --out o", "Nothing to draw: give --prompt"),
        ("generate --model {m} --out o --prompt p --num-images 0", "above 0"),
        ("generate --model {m} --out o --prompt p --num-images -3", "above 0, not '-3'"),
        ("generate --model {m} --out o --prompt p --batch-size many", "above 0"),
        ("generate --model {m} --out o --prompt p --temperature -1", "0 or more"),
        ("generate --model {m} --out o --prompt p --temperature nan", "0 or more"),
        ("generate --model {m} --out o --prompt p --top-p 0", "above 0 and at most 1"),
        ("generate --model {m} --out o --prompt p --top-p 1.5", "above 0 and at most 1"),
        ("generate --model {m} --out {i} --prompt p", "is a file, not a folder"),
        ("generate --model {m} --out {i}/sub --prompt p", "is a file, not a folder"),
        ("reconstruct --tokenizer {t} {i} no.png --out o", "no such file"),
        ("extract-codes --tokenizer {t} --data nowhere --out o", "no such folder"),
        ("train teacher --config nowhere.yaml", "no such file"),
        ("train teacher --config {c} steps", "key.sub=value"),
        ("train teacher steps=1 --config {c} more", "key.sub=value"),
        ("describe", "either a tokenizer or a config"),
        ("describe --tokenizer {t} model.patch_size=8", "go with a config"),
        ("train nothing --config {c}", "invalid choice"),
        ("train", "name a command (see `semhitok train --help`)"),
        ("prepare ./nowhere --out o", "no such folder"),
        ("prepare --out o", "required: SOURCE"),
        ("quickstart --unknown", "unrecognized arguments: --unknown"),
        ("quickstart --pre long", "unrecognized arguments"),
        ("", "required: COMMAND"),
    ],
)
def test_a_slip_costs_one_sentence_and_exit_code_2(argv, message, quickstart, capsys):
    places = {
        "m": quickstart / "mllm/model",
        "t": quickstart / "decoder/model",
        "d": quickstart / "data/test",
        "i": quickstart / "images/test-0.png",
        "c": "configs/quickstart/teacher.yaml",
    }
    assert message in failure(capsys, shlex.split(argv.format(**places)))


def test_overrides_may_stand_on_either_side_of_the_config(quickstart):
    training = "training={num_steps: 1, global_batch_size: 2, learning_rate: 1}"
    words = ["data=runs/quickstart/data/train", "--config", "configs/quickstart/teacher.yaml"]
    parsed = new_cli.parse(["train", "teacher", *words, "out=o", training, "vision.a=[1,2]"])
    assert parsed is not None
    assert parsed[0].name == "train teacher"
    assert (parsed[1].training.num_steps, parsed[1].vision) == (1, {"a": [1, 2]})


def test_sampler_options_default_to_the_model(quickstart):
    arguments = cli.parse(example_of(COMMANDS["semhitok generate"])[1:])
    sampler = (arguments.guidance_scale, arguments.temperature, arguments.top_k, arguments.top_p)
    assert sampler == (None, None, None, None)
    assert (arguments.seed, arguments.batch_size) == (0, 16)


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        (Path("runs/a"), "wrote runs/a\n"),
        ("b", "wrote b\n"),
        ([Path("a"), "b"], "wrote a\nwrote b\n"),
        (None, ""),
    ],
)
def test_a_command_ends_with_what_it_wrote(command, capsys, returned, shown):
    command(lambda arguments: returned)
    assert cli.main(["quickstart"]) == 0
    assert capsys.readouterr().out == shown


def test_only_rank_0_says_what_was_written(command, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    command(lambda arguments: "a")
    assert cli.main(["quickstart"]) == 0
    assert capsys.readouterr().out == ""


def test_a_user_error_is_one_line_and_debug_adds_the_traceback(command, capsys, monkeypatch):
    def fail(arguments):
        raise UserError("the cat\nsat on it")

    command(fail)
    assert failure(capsys, ["quickstart"]) == "semhitok: error: the cat sat on it\n"
    monkeypatch.setenv("SEMHITOK_DEBUG", "1")
    assert cli.main(["quickstart"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(command):
    def fail(arguments):
        raise ValueError("a defect")

    command(fail)
    with pytest.raises(ValueError, match="a defect"):
        cli.main(["quickstart"])


def test_an_interrupt_is_one_line_and_130(command, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    command(interrupt)
    assert cli.main(["quickstart"]) == 130
    assert capsys.readouterr().err == "semhitok: interrupted\n"


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"semhitok {semhitok.__version__}\n"
