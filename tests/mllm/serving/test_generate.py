"""Lists of prompts drawn to a folder: what is in the files, and what a crash or a fault leaves."""

import errno
import io
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from data_pipelines.prepare.run import prepare
from data_pipelines.prepare.settings import PrepareSettings
from mllm.drawing.drawer import Drawer
from mllm.drawing.requests import ImageRequest
from mllm.model.sampler import Sampler
from mllm.saved.load import load_for_inference
from mllm.serving.generate import generate as generate_images
from mllm.serving.prompts import PromptList
from mllm.serving.settings import GenerateSettings
from runtime import files
from runtime.resume import run_lock
from semhitok import main as cli
from tests.limits import largest_file
from tests.mllm.tiny import launch, make_model
from tests.processes import Forked

NUM_PROMPTS = 500


@pytest.fixture(scope="module")
def folder(world, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_model(world).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def generate(folder, capfd):
    """Runs `semhitok generate`; returns the exit code and its error output."""

    def run(out: Path, *options: object) -> tuple[int, str]:
        arguments = ["generate", "--model", folder, "--out", out, *options]
        capfd.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return code, capfd.readouterr().err

    return run


def write_list(path: Path, count: int) -> Path:
    colours = ("red", "green", "blue")
    lines = [
        {"prompt": f"a {colours[n % 3]} bar", "seed": n, "id": f"p{n}"} | (
            {"negative_prompt": "a green box"} if n % 7 == 0 else {}
        )
        for n in range(count)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def images(out: Path) -> dict[str, bytes]:
    """What the images of a folder are, to the byte."""
    return {path.name: path.read_bytes() for path in out.glob("*-*.png") if path.name[0] != "c"}


def test_an_image_tells_what_it_was_drawn_from_and_is_what_python_draws(
    folder, generate, tmp_path
) -> None:
    options = ["--temperature", 2.0, "--guidance-scale", 1.5, "--guidance-schedule", "cosine"]
    options += ["--min-p", 0.01, "--pixel-top-k", 2, "--negative-prompt", "blue"]
    code, error = generate(
        tmp_path, "--prompt", "a red bar", "--num-images", 3, "--seed", 7, *options
    )
    assert code == 0, error
    assert "images/s" in error
    assert sorted(images(tmp_path)) == ["00000-00.png", "00000-01.png", "00000-02.png"]
    with Image.open(tmp_path / "00000-02.png") as image:
        text, drawn = image.text, image.convert("RGB").tobytes()
    assert (text["prompt"], text["negative_prompt"], text["seed"]) == ("a red bar", "blue", "9")
    settings = json.loads(text["settings"])
    sampler = settings["sampler"]
    assert (sampler["temperature"], sampler["guidance_schedule"]) == (2.0, "cosine")
    assert (sampler["min_p"], sampler["pixel_top_k"]) == (0.01, 2)
    assert len(text["model"]) == 64
    lines = [json.loads(line) for line in (tmp_path / "images.jsonl").open()]
    assert [line["seed"] for line in lines] == [7, 8, 9]
    assert json.loads((tmp_path / "settings.json").read_text())["sampler"] == sampler

    model, processor = load_for_inference(folder)
    drawer = Drawer(model, processor, Sampler(**sampler))
    [(_, codes)] = drawer.draw([ImageRequest("a red bar", 9, "blue")])
    assert drawer.pictures(codes[None])[0].tobytes() == drawn
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert len(sheet.convert("RGB").getcolors(10**6)) > 10


def test_the_same_list_as_text_jsonl_parquet_and_standard_input(tmp_path, monkeypatch) -> None:

    rows = [{"prompt": "a red bar"}, {"prompt": "a box", "seed": 4}, {"prompt": "c", "id": "last"}]
    expected = [ImageRequest("a red bar", 1, "x", id="00000"),
                ImageRequest("a box", 4, "x", id="00001"),
                ImageRequest("c", 1, "x", id="last")]  # fmt: skip
    jsonl = tmp_path / "list.jsonl"
    jsonl.write_text("\n\n".join(json.dumps(row) for row in rows))
    assert list(PromptList(jsonl, negative="x", seed=1)) == expected
    table = pyarrow.Table.from_pylist([{"seed": None, "id": None, "more": 3} | r for r in rows])
    parquet.write_table(table, tmp_path / "list.parquet")
    assert list(PromptList(tmp_path / "list.parquet", negative="x", seed=1)) == expected

    def standard_input(data: bytes) -> PromptList:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        return PromptList("-", negative="x", seed=1)

    piped = standard_input(jsonl.read_bytes())
    assert list(piped) == expected and list(piped) == expected
    text = tmp_path / "list.txt"
    text.write_text("a red bar\n\n  {a box}\n")
    two = [ImageRequest("a red bar", id="00000"), ImageRequest("{a box}", id="00001")]
    assert list(PromptList(text)) == two
    assert [request.prompt for request in standard_input(text.read_bytes())] == [
        "a red bar",
        "{a box}",
    ]


def test_the_captions_of_prepared_data_are_a_list_too(tmp_path) -> None:
    captions = ["a red bar", "", "a box"]
    for number, caption in enumerate(captions):
        Image.effect_noise((16, 16), 40).save(tmp_path / f"{number}.png")
        if caption:
            (tmp_path / f"{number}.txt").write_text(caption)
    source = f"folder:{tmp_path}"
    folder = prepare(PrepareSettings(sources=[source], out=str(tmp_path.with_name("data"))))
    assert [request.prompt for request in PromptList(folder)] == ["a red bar", "a box"]
    assert [request.id for request in PromptList(folder, limit=1)] == ["00000"]
    assert PromptList(folder, limit=1).check() == 1


def test_what_is_finished_is_not_drawn_again_and_what_is_damaged_is(
    generate, tmp_path, monkeypatch
) -> None:
    prompts = write_list(tmp_path / "list.jsonl", 6)
    out = tmp_path / "out"
    assert generate(out, "--prompts", prompts)[0] == 0
    before = images(out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("p*.png")}
    broken = out / "p1-00.png"
    broken.write_bytes(before["p1-00.png"][:-20])
    flipped = bytearray(before["p3-00.png"])
    flipped[-60] ^= 1
    (out / "p3-00.png").write_bytes(flipped)
    (out / "p4-00.png").unlink()
    for name in ("p4-00.png", "images.jsonl", "settings.json", "contact-sheet.png"):
        (out / f".{name}.0123abcd.tmp").write_bytes(b"half")
    code, error = generate(out, "--prompts", prompts)
    assert code == 0 and "6/6 image" in error
    assert images(out) == before
    assert not list(out.glob(".*"))
    again = {path for path in times if path.stat().st_mtime_ns != times[path]}
    assert {path.name for path in again} == {"p1-00.png", "p3-00.png", "p4-00.png"}

    for change in (["--temperature", 3], ["--batch-size", 2]):
        code, error = generate(out, "--prompts", prompts, *change)
        assert (code, "another settings" in error) == ((2, True) if change[1] == 3 else (0, False))
    assert images(out) == before
    assert generate(out, "--prompts", prompts, "--temperature", 3, "--overwrite")[0] == 0
    assert images(out) != before


# `semhitok`, which says at some numbers of images what its memory has been at most.
MEASURED = """
import re, sys
from mllm.serving.gallery import Gallery
from semhitok import main as cli
write, written = Gallery.write, []
def measured(*arguments):
    write(*arguments)
    written.append(1)
    if len(written) in (100, 480):
        status = open("/proc/self/status").read()
        print("PEAK", re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
Gallery.write = measured
sys.exit(cli.main(sys.argv[1:]))
"""


def start(folder: Path, prompts: Path, out: Path, *program: str) -> Forked:
    """`semhitok generate` in a process of its own."""
    arguments = ["generate", "--model", folder, "--prompts", prompts, "--out", out]
    return Forked([*(program or ("-m", "semhitok")), *arguments])


def wait_for(process: Forked, out: Path, count: int) -> None:
    """Let it write `count` images."""
    while len(list(out.glob("p*.png"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def finish(process: Forked) -> str:
    """Let it end; returns what it said."""
    said, error = process.communicate()
    assert process.returncode == 0, error
    return said


@pytest.mark.slow
def test_a_list_of_500_killed_three_times_loses_nothing_and_draws_nothing_twice(
    folder, tmp_path
) -> None:
    prompts = write_list(tmp_path / "list.jsonl", NUM_PROMPTS)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    said = finish(start(folder, prompts, undisturbed, "-c", MEASURED))
    early, late = (int(kb) / 1024 for kb in re.findall(r"PEAK (\d+)", said))
    assert early > 100 and late < early + 20, "memory grows with the list"
    assert len(images(undisturbed)) == NUM_PROMPTS

    written: dict[str, int] = {}
    for goal in (50, 150, 300):
        process = start(folder, prompts, killed)
        wait_for(process, killed, goal)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        now = {path.name: path.stat().st_mtime_ns for path in killed.glob("p*.png")}
        assert goal <= len(now) < NUM_PROMPTS
        assert written.items() <= now.items(), "an image was drawn twice, or lost"
        written = now
    finish(start(folder, prompts, killed))
    assert written.items() <= {p.name: p.stat().st_mtime_ns for p in killed.glob("p*.png")}.items()
    assert images(killed) == images(undisturbed)
    assert not list(killed.glob(".*"))
    for name in ("images.jsonl", "settings.json", "contact-sheet.png"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.mark.slow
def test_two_ranks_write_the_same_files_as_one(folder, generate, tmp_path) -> None:
    prompts = write_list(tmp_path / "list.jsonl", 13)
    one, two = tmp_path / "one", tmp_path / "two"
    assert generate(one, "--prompts", prompts, "--num-images", 2)[0] == 0
    arguments = ["generate", "--model", folder, "--prompts", prompts, "--out", two]
    finished = launch(2, *map(str, arguments), "--num-images", "2")
    assert finished.returncode == 0, finished.stderr
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in two.iterdir()
    }
    assert len(images(two)) == 26


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2 of .* is not valid JSON"),
        ("[1]", "line 2 of .* is not an object"),
        ('{"text": "a bar"}', "line 2 of .* has no prompt"),
        ('{"prompt": " "}', "line 2 of .* has no prompt"),
        ('{"prompt": "a", "seed": -1}', "line 2 of .* has the seed -1"),
        ('{"prompt": "a", "id": "../up"}', "names no file"),
        ('{"prompt": "a", "id": "first"}', "the id 'first' twice"),
        ('{"prompt": "a", "negative_prompt": 3}', "negative_prompt that is not a text"),
        ('{"prompt": "a \\ud800 bar"}', "line 2 of .* an unpaired surrogate"),
        (
            '{"prompt": "a", "negative_prompt": "\\ud800"}',
            "line 2 of .* contains an unpaired surrogate",
        ),
        ('{"prompt": ' + "[" * 100_000, "line 2 of .* is not valid JSON"),
        ('{"prompt": "' + "red " * 500 + '"}', "Prompt 00001: .* at most 128: shorten"),
    ],
)
def test_a_bad_line_is_one_sentence_before_anything_is_drawn(
    generate, tmp_path, line, complaint
) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"prompt": "a red bar", "id": "first"}\n' + line + "\n")
    code, error = generate(tmp_path / "out", "--prompts", path)
    assert code == 2
    assert error.splitlines()[-1].startswith("semhitok: error: ")
    assert re.search(complaint, error), error
    assert not images(tmp_path / "out")


def test_a_sampler_of_the_config_that_there_is_not_is_one_sentence(folder, tmp_path, capsys):
    copy = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((copy / "config.json").read_text())
    config["image_sampler"] = {"temprature": 1.0}
    (copy / "config.json").write_text(json.dumps(config))
    arguments = ["generate", "--model", copy, "--prompt", "a bar", "--out", tmp_path / "out"]
    assert cli.main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert 'image_sampler in the model\'s config.json: unknown key "temprature"' in said


def test_letters_on_the_contact_sheet_are_not_all_the_same_box(generate, tmp_path) -> None:
    titles = []
    for number, letter in enumerate("öéж"):
        assert generate(tmp_path / str(number), "--prompt", letter * 8)[0] == 0
        with Image.open(tmp_path / str(number) / "contact-sheet.png") as sheet:
            titles.append(sheet.crop((0, 128, 128, 146)).tobytes())
    assert len(set(titles)) == 3


def test_a_mark_of_the_beginning_is_no_part_of_the_first_prompt(generate, tmp_path) -> None:
    for name, line in (("list.txt", "a red bar"), ("list.jsonl", '{"prompt": "a red bar"}')):
        (tmp_path / name).write_text(line + "\n", encoding="utf-8-sig")
        assert generate(tmp_path / f"{name}-out", "--prompts", tmp_path / name)[0] == 0
        with Image.open(tmp_path / f"{name}-out" / "00000-00.png") as image:
            assert image.text["prompt"] == "a red bar"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--prompt", "a bar", "--seed", "9" * 23), "--seed must be less than 9223372036854775808"),
        (("--prompt", "a \udcff bar"), "--prompt: the text contains an unpaired surrogate"),
        (("--prompts", "/dev/null"), "--prompts: /dev/null is a pipe or a device; name a file"),
        (("--prompt", "a", "red", "bar"), "unrecognized arguments: red bar"),
        (("--prompt", "a bar", "--paint-over"), "Nothing to keep from: give the --image"),
    ],
)
def test_arguments_that_no_model_takes_are_one_sentence(generate, tmp_path, options, complaint):
    code, error = generate(tmp_path / "out", *options)
    assert code == 2 and complaint in error.splitlines()[-1]


def test_lists_without_prompts_are_one_sentence(generate, tmp_path, monkeypatch) -> None:

    parquet.write_table(
        pyarrow.table({"prompt": pyarrow.array([], "string")}), tmp_path / "a.parquet"
    )
    parquet.write_table(pyarrow.table({"text": ["a bar"]}), tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    (tmp_path / "d.txt").write_text("\n \n")
    for name, complaint in (
        ("a.parquet", "has no prompts"),
        ("b.parquet", "no column `prompt`"),
        ("c.parquet", "cannot be read as parquet"),
        ("d.txt", "is empty"),
    ):
        code, error = generate(tmp_path / "out", "--prompts", tmp_path / name)
        assert code == 2 and complaint in error
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    code, error = generate(tmp_path / "out", "--prompts", "-")
    assert code == 2 and "standard input has no prompts" in error


def test_a_full_disk_is_one_sentence_and_keeps_what_is_finished(
    generate, tmp_path, monkeypatch
) -> None:
    prompts = write_list(tmp_path / "list.jsonl", 40)
    out = tmp_path / "out"
    real = os.fsync
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    code, error = generate(out, "--prompts", prompts)
    assert code == 2
    sentence = error.splitlines()[-1]
    assert "No space left on device; free some space; finished images are kept" in sentence
    assert len(images(out)) == 10 and not list(out.glob(".*"))
    kept = images(out)
    monkeypatch.undo()
    assert generate(out, "--prompts", prompts)[0] == 0
    assert kept.items() <= images(out).items() and len(images(out)) == 40


def test_a_real_limit_of_file_sizes_leaves_no_half_image(folder, tmp_path, capsys) -> None:
    """RLIMIT_FSIZE: writing stops in the middle of a file, as on a disk that fills up."""
    arguments = ["generate", "--model", folder, "--prompt", "a bar", "--out", tmp_path / "out"]
    with largest_file(300):
        code = cli.main([str(argument) for argument in arguments])
    assert code == 2
    assert "File too large; free some space" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(generate, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file" in generate(tmp_path / "file" / "out", "--prompt", "a bar")[1]
    # Root may write anywhere, so the refusal is the system's in an ordinary folder.
    real = open

    def refuse(path, mode="r", *args, **options):
        if "w" in mode and str(path).startswith(str(tmp_path / "out")):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, mode, *args, **options)

    monkeypatch.setattr("builtins.open", refuse)
    code, error = generate(tmp_path / "out", "--prompt", "a bar")
    assert code == 2
    assert "Permission denied; choose a folder that can be written" in error.splitlines()[-1]


def test_two_prompts_are_two_drawings_from_the_command_line_and_from_python(
    folder, generate, tmp_path
) -> None:
    options = ["--prompt", "a red bar", "--prompt", "a box", "--num-images", 2, "--seed", 40]
    assert generate(tmp_path / "one", *options)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "one" / "images.jsonl").open()]
    assert [(line["file"], line["prompt"], line["seed"]) for line in lines] == [
        ("00000-00.png", "a red bar", 40), ("00000-01.png", "a red bar", 41),
        ("00001-00.png", "a box", 40), ("00001-01.png", "a box", 41),
    ]  # fmt: skip
    settings = GenerateSettings(
        model=folder, prompt=["a red bar", "a box"], out=tmp_path / "two", num_images=2, seed=40
    )
    assert generate_images(settings) == tmp_path / "two"
    assert images(tmp_path / "two") == images(tmp_path / "one")


@pytest.mark.parametrize("name", ["list.jsonl", "list.parquet"])
def test_fields_that_are_not_read_are_named(tmp_path, capsys, name) -> None:
    rows = [{"prompt": "a bar", "negative": "red", "sede": 3}, {"prompt": "a box", "sede": 4}]
    path = tmp_path / name
    if name.endswith("parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    assert PromptList(path).check() == 2
    said = capsys.readouterr().err
    assert "values of the field 'negative' (did you mean 'negative_prompt'?), 2 values" in said
    assert "2 values of the field 'sede' (did you mean 'seed'?)" in said


def test_a_table_is_no_list_of_prompts(generate, tmp_path) -> None:
    (tmp_path / "p.csv").write_text("prompt,seed\na bar,3\n")
    code, error = generate(tmp_path / "out", "--prompts", tmp_path / "p.csv")
    assert code == 2 and "p.csv is a table; give its prompts one a line" in error


def test_a_second_run_into_a_folder_in_use_is_refused(generate, tmp_path) -> None:
    left = tmp_path / "out" / ".00000-00.png.1.tmp"
    with run_lock(tmp_path / "out"):
        left.touch()  # the other's, half written
        code, error = generate(tmp_path / "out", "--prompt", "a bar")
        assert code == 2 and "another run" in error and left.exists()
