import csv
import json
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from eval.drawing import export as drawing_export
from eval.drawing.layouts import (
    LAYOUTS,
    Prompt,
    as_grid,
    check_layout,
    read_prompts,
    save_drawing,
    split_grid,
)
from eval.drawing.settings import GenerationSettings
from mllm.model.sampler import Sampler
from runtime.errors import UserError

GENEVAL = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"},
    {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}], "prompt": "red"},
]
DPG_COLUMNS = (
    "item_id", "text", "keywords", "proposition_id", "dependency", "category_broad",
    "category_detailed", "tuple", "question_natural_language",
)  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """A prompt file of each benchmark in its published format, shortened."""
    found = {task: tmp_path / f"{task}.file" for task in LAYOUTS}
    found["geneval"].write_text("".join(json.dumps(row) + "\n" for row in GENEVAL))
    with open(found["dpg"], "w", newline="") as file:
        writer = csv.DictWriter(file, DPG_COLUMNS)
        writer.writeheader()
        for item in ("coco_1", "midjourney_2"):
            for number in (1, 2):
                row = dict.fromkeys(DPG_COLUMNS, "x")
                row |= {"item_id": item, "text": f"A scene, with {item}.", "dependency": "0"}
                writer.writerow(row | {"proposition_id": number})
    mjhq = {
        "a1b2": {"category": "animals", "prompt": "a fox"},
        "c3": {"category": "food", "prompt": "pie"},
    }
    found["mjhq"].write_text(json.dumps(mjhq))
    wise = [
        {"prompt_id": 2, "Prompt": "a river", "Category": "Time", "Explanation": "e"},
        {"prompt_id": 1, "Prompt": "a plant", "Category": "Culture", "Explanation": "e"},
    ]
    found["wise"].write_text(json.dumps(wise))
    found["t2i-compbench"].write_text("a green bench and a blue bowl\na brown horse.\n")
    geneval2 = [{"prompt": "two cows", "vqa_list": [["How many?", "two"]], "skills": ["count"]}]
    found["geneval2"].write_text("".join(json.dumps(row) + "\n" for row in geneval2))
    return found


EXPECTED = {
    "geneval": ["00000/metadata.jsonl", "00000/samples/0000.png", "00000/samples/0001.png",
                "00001/metadata.jsonl", "00001/samples/0000.png", "00001/samples/0001.png"],
    "dpg": ["coco_1.png", "midjourney_2.png"],
    "mjhq": ["animals/a1b2.png", "food/c3.png"],
    "wise": ["1.png", "2.png"],
    "t2i-compbench": [
        "samples/a brown horse._000002.png", "samples/a brown horse._000003.png",
        "samples/a green bench and a blue bowl_000000.png",
        "samples/a green bench and a blue bowl_000001.png",
    ],
    "geneval2": ["image_paths.json", "images/00000.png"],
}  # fmt: skip
NUMBERS = {"geneval": 2, "t2i-compbench": 2}


@pytest.fixture
def fake_draw(monkeypatch):
    """Drawings that are a pure function of prompt and seed; counts them."""
    drawn = []

    def draw(model, processor, prompts, seeds, sampler, batch_size):
        for prompt, seed in zip(prompts, seeds, strict=True):
            drawn.append((prompt, seed))
            pixels = random.Random(f"{prompt} {seed}").randbytes(8 * 8 * 3)
            yield Image.frombytes("RGB", (8, 8), pixels)

    model = SimpleNamespace(config=SimpleNamespace(image_sampler={"top_k": 7}))
    monkeypatch.setattr("eval.drawing.export.draw", draw)
    monkeypatch.setattr("eval.drawing.export.load_for_inference", lambda folder: (model, None))
    return drawn


@pytest.fixture
def export(tmp_path, files, fake_draw):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")

    def run(task, out="out", **options):
        prompts = read_prompts(task, files[task], NUMBERS.get(task))
        folder = tmp_path / out
        settings = GenerationSettings(
            task=task, prompts=files[task], model=tmp_path / "model", out=folder, **options
        )
        record = drawing_export.export(settings, prompts)
        assert (folder / "drawing.json").is_file()
        return record, prompts, folder / "export"

    return run


def written(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("task", LAYOUTS)
def test_the_export_has_exactly_the_benchmarks_files(task, export):
    record, prompts, folder = export(task)
    assert written(folder) == sorted(EXPECTED[task])
    check_layout(task, folder, prompts)
    assert record["sampler"]["top_k"] == 7 and record["prompts_rewritten"] is False
    assert json.loads((folder.parent / "drawing.json").read_text())["num_prompts"] == len(prompts)


@pytest.mark.parametrize("task", LAYOUTS)
def test_a_layout_check_names_the_first_file_that_is_missing(task, export):
    _, prompts, folder = export(task)
    victim = prompts[-1].paths[-1]
    (folder / victim).unlink()
    with pytest.raises(UserError, match=r"lacks 1 of the \d+ files") as refused:
        check_layout(task, folder, prompts)
    assert victim in str(refused.value)
    (folder / victim).write_bytes(b"\x89PNG\r\n")
    with pytest.raises(UserError, match="not a whole picture"):
        check_layout(task, folder, prompts)


def test_an_interrupted_export_draws_only_what_is_missing(export, fake_draw):
    _, prompts, folder = export("geneval")
    whole = {path: (folder / path).read_bytes() for path in written(folder)}
    fake_draw.clear()
    (folder / prompts[1].paths[0]).unlink()
    export("geneval")
    assert fake_draw == [("red", 2), ("red", 3)]
    assert {path: (folder / path).read_bytes() for path in written(folder)} == whole


def test_a_folder_of_other_settings_is_not_gone_on_with(export):
    export("wise")
    with pytest.raises(UserError, match="another sampler"):
        export("wise", sampler=Sampler(guidance_scale=9.0))
    with pytest.raises(UserError, match="another seed"):
        export("wise", seed=1)


def test_geneval_metadata_is_the_published_line(export):
    _, _, folder = export("geneval")
    assert json.loads((folder / "00001" / "metadata.jsonl").read_text()) == GENEVAL[1]


def test_geneval2_maps_each_prompt_to_its_picture(export):
    _, _, folder = export("geneval2")
    paths = json.loads((folder / "image_paths.json").read_text())
    assert list(paths) == ["two cows"] and Image.open(paths["two cows"]).size == (8, 8)


def test_prompts_that_a_layout_cannot_hold_are_refused(tmp_path):
    file = tmp_path / "prompts"
    file.write_text("a red/blue car\n")  # would become a folder that the scorer passes by
    with pytest.raises(UserError, match="a slash, which no file name has"):
        read_prompts("t2i-compbench", file)
    row = {"prompt": "a dog", "vqa_list": [["a dog?", "Yes"]]}
    file.write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    with pytest.raises(UserError, match="a prompt twice"):
        read_prompts("geneval2", file)


def test_a_grid_comes_apart_as_it_was_put_together():
    images = [Image.new("RGB", (4, 6), (40 * i, 0, 0)) for i in range(4)]
    grid = as_grid(images)
    assert grid.size == (8, 12) and grid.getpixel((7, 0)) == (40, 0, 0)
    assert all(np.array_equal(a, b) for a, b in zip(images, split_grid(grid), strict=True))


@pytest.mark.parametrize("task", LAYOUTS)
@pytest.mark.parametrize("other", ["geneval", "mjhq", "wise", "dpg"])
def test_a_prompt_file_of_another_benchmark_is_refused(task, other, files):
    if task == other:
        return
    if task == "t2i-compbench" and other == "dpg":
        return  # any text is one prompt a line
    with pytest.raises(UserError, match=f"not a prompt file of {task}|has no prompts"):
        read_prompts(task, files[other])


def test_more_drawings_than_a_million_are_refused_before_their_names_are_made(tmp_path):
    file = tmp_path / "prompts"
    file.write_text("\n".join(f"prompt {number}" for number in range(2000)))
    with pytest.raises(UserError, match=r"2,000 prompts .* with 1,000 drawings each are more"):
        read_prompts("t2i-compbench", file, 1000)


def test_an_empty_file_and_grids_of_another_size(tmp_path, files):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UserError, match="no prompts"):
        read_prompts("geneval", tmp_path / "empty")
    with pytest.raises(UserError, match="grids of 4"):
        read_prompts("dpg", files["dpg"], 3)


def test_names_that_lead_out_or_are_too_long_are_refused(tmp_path):
    file = tmp_path / "prompts"
    file.write_text(json.dumps({"../../x": {"category": "..", "prompt": "p"}}))
    with pytest.raises(UserError, match="leads out"):
        read_prompts("mjhq", file)
    file.write_text("a very long prompt " * 20)
    with pytest.raises(UserError, match="too long"):
        read_prompts("t2i-compbench", file)
    file.write_text(json.dumps([{"prompt_id": 1, "Prompt": "a"}, {"prompt_id": 1, "Prompt": "b"}]))
    with pytest.raises(UserError, match="twice"):
        read_prompts("wise", file)


def test_a_killed_save_leaves_no_picture_behind(tmp_path, files, monkeypatch):
    prompt = read_prompts("wise", files["wise"])[0]

    def killed(path, target):
        assert path.read_bytes()
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_drawing("wise", tmp_path, prompt, [Image.new("RGB", (4, 4))])
    assert not (tmp_path / prompt.paths[0]).exists()


def test_a_prompt_that_fills_the_longest_name_is_written(tmp_path):
    file = tmp_path / "prompts"
    file.write_text("é" * 120)  # 251 bytes with the number and the ending
    (prompt,) = read_prompts("t2i-compbench", file, 1)
    save_drawing("t2i-compbench", tmp_path, prompt, [Image.new("RGB", (4, 4))])
    assert [path.name for path in (tmp_path / "samples").iterdir()] == [f"{'é' * 120}_000000.png"]


def test_ranks_that_write_into_one_folder_do_not_take_each_others_drawing(tmp_path, monkeypatch):
    one, other = Prompt("one", ("animals/1.png",)), Prompt("other", ("animals/2.png",))
    replace = os.replace

    def slow(source, target):
        """Before it is finished, another rank writes and finishes its own."""
        monkeypatch.setattr("os.replace", replace)
        save_drawing("mjhq", tmp_path, other, [Image.new("RGB", (8, 8), "blue")])
        replace(source, target)

    monkeypatch.setattr("os.replace", slow)
    save_drawing("mjhq", tmp_path, one, [Image.new("RGB", (8, 8), "red")])
    assert Image.open(tmp_path / "animals" / "1.png").getpixel((0, 0)) == (255, 0, 0)
    assert Image.open(tmp_path / "animals" / "2.png").getpixel((0, 0)) == (0, 0, 255)
    assert len(list((tmp_path / "animals").iterdir())) == 2
