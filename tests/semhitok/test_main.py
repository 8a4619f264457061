import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import semhitok
from runtime.errors import UserError
from semhitok import main as cli
from semhitok.command import Command, load
from semhitok.commands import COMMANDS, GROUPS

ROOT = Path(semhitok.__file__).parents[1]
HEAVY = {"torch", "transformers", "numpy", "PIL", "datasets", "matplotlib", "jinja2"}


def stand_in(settings):
    """Runs as the command of the tests; each of them puts its own function here."""
    return WORK["function"](settings)


WORK = {}


@pytest.fixture
def command(monkeypatch):
    """Makes a function the command `stand-in`."""

    def install(function):
        monkeypatch.setitem(WORK, "function", function)
        monkeypatch.setitem(sys.modules, "stand_in_module", sys.modules[stand_in.__module__])
        monkeypatch.setitem(
            COMMANDS,
            "stand-in",
            Command(
                "stand-in",
                "stand in",
                "semhitok stand-in",
                settings="runtime.settings:Settings",
                function="stand_in_module:stand_in",
            ),
        )

    return install


@pytest.fixture
def quickstart(tmp_path, monkeypatch):
    """An empty stand-in for what `semhitok quickstart` leaves, in the working directory."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "quickstart"
    for folder in ("data/train", "data/test", "codes/train", "images", "eval/reconstruction"):
        (run / folder).mkdir(parents=True)
    models = ("teacher/model", "semantic/model", "pixel/model", "decoder/model", "mllm/model")
    for folder in (*models, "mllm/start"):
        (run / folder).mkdir(parents=True)
        (run / folder / "config.json").write_text("{}")
    for model in ("flat", "lora/model"):
        (tmp_path / "runs" / model).mkdir(parents=True)
        (tmp_path / "runs" / model / "config.json").write_text("{}")
    (run / "images" / "test-0.png").write_bytes(b"")
    return run


def failure(capsys, argv) -> str:
    """The one sentence on stderr of a call that must fail."""
    assert cli.main(argv) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("semhitok: error: ")
    return output.err


def test_help_imports_nothing_heavy():
    # One process for all, the overviews first: what one of them imports, all later ones have.
    code = (
        "import contextlib, io, sys; from semhitok.main import main\n"
        "for line in sys.argv[1:]:\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main([*line.split(), '--help'])\n"
        f"    print(line, *sorted({HEAVY | {'yaml', 'tqdm', 'pydantic'}!r} & set(sys.modules)))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, "", *GROUPS, *COMMANDS],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    lines = finished.stdout.splitlines()
    assert lines[: 1 + len(GROUPS)] == [" ".join([name]) for name in ("", *GROUPS)]
    assert len(lines) == 1 + len(GROUPS) + len(COMMANDS)
    assert [line for line in lines if HEAVY & set(line.split())] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_a_line_and_an_example_of_itself(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([*name.split(), "--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert re.search(r"^[A-Z].*\.$", shown, re.MULTILINE)
    assert f"example:\n  semhitok {name}" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_has_a_help_text(name):
    def undocumented(settings_class, prefix=""):
        for key, field in settings_class.model_fields.items():
            if not field.description:
                yield prefix + key
            inside = field.annotation
            if isinstance(inside, type) and hasattr(inside, "model_fields"):
                yield from undocumented(inside, f"{prefix}{key}.")

    assert list(undocumented(load(COMMANDS[name].settings))) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_parses_after_the_quickstart(name, quickstart):
    program, *argv = shlex.split(COMMANDS[name].example)
    assert program == "semhitok"
    found = cli.parse(argv)
    assert found is not None
    command, settings = found
    assert command.name == name
    assert isinstance(settings, load(command.settings))


def test_every_target_is_a_module_of_the_house():
    # A string that nothing imports must still be told when its file moves.
    for command in COMMANDS.values():
        for target in (command.settings, command.function):
            module, _, name = target.partition(":")
            path = (ROOT / module.replace(".", "/")).with_suffix(".py")
            assert re.search(rf"^(def|class) {name}\b", path.read_text(), re.MULTILINE), target


def test_the_overview_lists_every_command_and_group(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^  {name.split()[0]} ", shown, re.MULTILINE)
    for group in GROUPS:
        assert cli.main([group, "--help"]) == 0
        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown for name in COMMANDS if name.startswith(f"{group} "))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("generate --model {m} --out o --prompt ''", "the text is empty"),
        ("generate --model {m} --out o --prompt '  '", "the text is empty"),
        ("ask --model {m} --image {i} --question ' '", "the text is empty"),
        ("ask --model {m} --image no.png --question q", "no such file: no.png"),
        ("eval sensitivity --model {m}", "is called semhitok eval input-ablation now"),
        ("plan --config x.yaml --json x", "--json is called --out now"),
        ("ablate --only flat", "write only=VALUE, not --only"),
        ("init-mllm --llm=x", "write llm=VALUE, not --llm=x"),
        ("ask --model {m} --image . --question q", "is a folder; name a file"),
        ("ask --model nowhere --image {i} --question q", "no such folder: nowhere"),
        ("ask --model {i} --image {i} --question q", "is a file; name a folder"),
        ("ask --model {d} --image {i} --question q", "holds no model"),
        ("ask --model runs/quickstart/mllm --image {i} --question q", "did you mean"),
        ("ask --model {m} --image {i} --question q --max-new-tokens 0", "greater than 0"),
        ("generate --model {m} --out o --prompts no.txt", "no such file"),
        ("generate --model {m} --out o --prompts {i}", "is empty"),
        ("generate --model {m} --out o", "give --prompt"),
        ("generate --model {m} --out o --prompt p --num-images 0", "greater than 0"),
        ("generate --model {m} --out o --prompt p --num-images -3", "greater than 0, not '-3'"),
        ("generate --model {m} --out o --prompt p --batch-size many", "a valid integer"),
        ("generate --model {m} --out o --prompt p --temperature -1", "greater than or equal to 0"),
        ("generate --model {m} --out o --prompt p --temperature nan", "finite number"),
        ("generate --model {m} --out o --prompt p --top-p 0", "greater than 0"),
        ("generate --model {m} --out o --prompt p --top-p 1.5", "less than or equal to 1"),
        ("generate --model {m} --out {i} --prompt p", "is a file, not a folder"),
        ("generate --model {m} --out {i}/sub --prompt p", "is a file, not a folder"),
        ("generate --model {m} --out '' --prompt p", "the name is empty"),
        ("generate --model {m} --out o --prompt p --seed 1 --seed 2", "--seed is given twice"),
        ("reconstruct --tokenizer {t} {i} no.png --out o", "no such file"),
        ("extract-codes --tokenizer {t} --data nowhere --out o", "no such folder"),
        ("train teacher --config nowhere.yaml", "no such file"),
        ("train teacher --config {c} steps", "key.sub=value"),
        ("train teacher steps=1 --config {c} more", "key.sub=value"),
        ("train nothing --config {c}", "semhitok train has no command 'nothing'"),
        ("train semantics --config {c}", "did you mean semantic?"),
        ("train", "name a command"),
        ("generat --model {m}", "did you mean generate?"),
        ("prepare ./nowhere --out o", "no such folder"),
        ("prepare --out o", "required: SOURCE"),
        ("quickstart --unknown", "unrecognized arguments: --unknown"),
        ("quickstart --pre long", "unrecognized arguments"),
        ("quickstart --preset middle", "must be one of short, long"),
        ("", "name a command"),
        ("eval vqa --model {m} --data {d} --out o --batch-size 0", "greater than 0"),
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
    argv = "train teacher training.num_steps=3 --config configs/quickstart/teacher.yaml out=007"
    found = cli.parse([*argv.split(), "training.betas=[0.5,0.6]"])
    assert found is not None
    settings = found[1]
    assert settings.training.num_steps == 3
    assert settings.training.betas == (0.5, 0.6)
    assert settings.out == Path("007")


def test_sampler_options_default_to_the_model(quickstart):
    found = cli.parse(shlex.split(COMMANDS["generate"].example)[1:])
    assert found is not None
    settings = found[1]
    assert settings.sampler.model_fields_set == set()
    assert (settings.seed, settings.batch_size) == (0, 16)


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
    command(lambda settings: returned)
    assert cli.main(["stand-in"]) == 0
    assert capsys.readouterr().out == shown


def test_only_rank_0_says_what_was_written(command, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    command(lambda settings: "a")
    assert cli.main(["stand-in"]) == 0
    assert capsys.readouterr().out == ""


def test_a_user_error_is_one_line_and_debug_adds_the_traceback(command, capsys, monkeypatch):
    def fail(settings):
        raise UserError("the cat\nsat on it")

    command(fail)
    assert failure(capsys, ["stand-in"]) == "semhitok: error: the cat sat on it\n"
    monkeypatch.setenv("SEMHITOK_DEBUG", "1")
    assert cli.main(["stand-in"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(command):
    def fail(settings):
        raise ValueError("a defect")

    command(fail)
    with pytest.raises(ValueError, match="a defect"):
        cli.main(["stand-in"])


def test_an_interrupt_is_one_line_and_130(command, capsys):
    def interrupt(settings):
        raise KeyboardInterrupt

    command(interrupt)
    assert cli.main(["stand-in"]) == 130
    assert capsys.readouterr().err == "semhitok: interrupted\n"


def test_a_missing_package_is_one_sentence(command, capsys, monkeypatch):
    monkeypatch.setitem(
        COMMANDS,
        "lost",
        Command("lost", "get lost", "semhitok lost", "runtime.settings:Settings", "no_such:thing"),
    )
    assert "the Python package 'no_such' is missing" in failure(capsys, ["lost"])


def test_version_is_the_packages(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"semhitok {semhitok.__version__}\n"


def test_the_deepspeed_launchers_argument_is_passed_over(command):
    command(lambda settings: None)
    assert cli.main(["--local_rank=1", "stand-in"]) == 0


@pytest.mark.parametrize(("given", "then"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(monkeypatch, given, then):
    # Beside a busy process spinning threads make training several times slower.
    monkeypatch.setenv("OMP_WAIT_POLICY", given or "")  # so that it is put back afterwards
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert cli.main(["--help"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == then
