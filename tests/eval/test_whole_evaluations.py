"""The evaluations end to end, on a tiny untrained model: what they write and that they agree."""

import json
import multiprocessing
import os
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from eval import run_all as complete
from eval.analysis import sensitivity
from eval.drawing import task as drawing_task
from eval.drawing.layouts import check_layout, read_prompts
from eval.reconstruction import task as reconstruction
from eval.vqa import task as vqa
from eval.vqa.predictions import read_rows
from mllm.saved.fingerprint import model_fingerprint
from runtime.errors import UserError
from semhitok import old_main as cli
from tests.mllm.tiny import World, launch
from tests.ports import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def test_a_benchmark_from_prompts_to_a_score_by_the_model_itself(world, tmp_path):
    rows = [
        {"prompt": text, "vqa_list": [["is it red?", "yes"]], "skills": ["attribute"]}
        for text in ("a red bar", "a blue box")
    ]
    file = tmp_path / "geneval2.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = drawing_task.DrawingTaskSettings(
        "geneval2", str(file), str(tmp_path / "out"), str(world.start), judge="self"
    )
    summary = drawing_task.evaluate(settings)
    assert summary["checkpoint_fingerprint"] == model_fingerprint(world.start)
    check_layout("geneval2", tmp_path / "out" / "export", read_prompts("geneval2", file))
    assert summary["sampler"] and summary["prompts_rewritten"] is False and summary["seed"] == 0
    assert any("self-judged" in name for name in summary["scores"])
    assert "a blue box" in (tmp_path / "out" / "report.html").read_text()
    before = (tmp_path / "out" / "export" / "images" / "00001.png").read_bytes()
    (tmp_path / "out" / "export" / "images" / "00001.png").rename(
        tmp_path / "out" / "export" / "images" / ".0123.part"  # as a kill may leave it
    )
    drawing_task.evaluate(settings)  # goes on: the same picture again
    assert (tmp_path / "out" / "export" / "images" / "00001.png").read_bytes() == before
    assert len(list((tmp_path / "out" / "export" / "images").iterdir())) == 2
    # A model trained on has the same config and other weights: its drawings are not mixed in.
    other = shutil.copytree(world.start, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights[max(weights)] += 1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="drawn with another checkpoint_fingerprint"):
        drawing_task.evaluate(replace(settings, model=str(other)))


def test_two_ranks_draw_what_one_draws_and_every_image_counts_once(world, tmp_path):
    categories = ("animals", "food")
    rows = {
        f"{name}{i}": {"category": name, "prompt": f"a {colour} bar"}
        for name in categories
        for i, colour in enumerate(("red", "green", "blue"))
    }
    file = tmp_path / "meta_data.json"
    file.write_text(json.dumps(rows))
    for name in categories:
        (tmp_path / "real" / name).mkdir(parents=True)
        for i in range(4):
            noise = Image.effect_noise((40, 40), 20 * i + 10).convert("RGB")
            noise.save(tmp_path / "real" / name / f"{i}.png")
    arguments = [
        "eval", "generation", "--task", "mjhq", "--prompts", str(file), "--model", str(world.start),
        "--reference", str(tmp_path / "real"), "--network", "efficientnet-lite0",
        "--distance", "kid", "--out",
    ]  # fmt: skip
    finished = launch(2, *arguments, str(tmp_path / "two"))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("KID (EfficientNet-Lite0): food") == 1
    assert cli.main([*arguments, str(tmp_path / "one")]) == 0
    one, two = (
        json.loads((tmp_path / name / "summary.json").read_text())["scores"]
        for name in ("one", "two")
    )
    assert one["KID (EfficientNet-Lite0)"]["num_images"] == [8, 6]
    assert two == one


def page_text(folder):
    return (folder / "report.md").read_text()


def test_everything_on_one_page(world, tmp_path):
    settings = complete.CompleteSettings(str(world.start), str(world.data), 1, max_images=12)
    summary = complete.evaluate(settings, tmp_path / "out")
    assert set(summary["seconds_of"]) == {"reconstruction", "vqa", "generation", "sensitivity"}
    for part in summary["seconds_of"]:
        assert (tmp_path / "out" / part / "report.html").is_file()
        assert (tmp_path / "out" / part / "report.md").is_file()
    assert summary["parts"]["vqa"]["questions_fingerprint"] in page_text(tmp_path / "out")
    assert summary["checkpoint_fingerprint"] == model_fingerprint(world.start)
    assert "36 questions" in page_text(tmp_path / "out")
    assert {"reconstruction: PSNR, dB", "vqa: accuracy, overall", "generation: accuracy"} <= set(
        summary["scores"]
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What the numbers are sensitive to" in page and "✗ wrong" in page


def test_sensitivity_answers_as_the_evaluation_of_questions_does(world, tmp_path):
    settings = sensitivity.SensitivitySettings(str(world.start), str(world.data), seeds=0)
    summary = sensitivity.evaluate(settings, tmp_path / "out")
    vqa.evaluate(world.start, world.data, tmp_path / "vqa")
    rows = read_rows(tmp_path / "vqa")
    right = [row["prediction"].lower().strip() in row["answers"] for row in rows]
    whole = summary["variants"][sensitivity.AS_IT_IS]
    assert whole["vqa"]["value"] == pytest.approx(sum(right) / len(right))
    assert summary["num_questions"] == len(rows) and "drawing" not in whole


def _rank(rank, port, tokenizer, pictures, out):
    torch.set_num_threads(1)  # a fork of a process with threads must not use its pool
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "3"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    reconstruction.evaluate(tokenizer, pictures, out, 2)


def test_reconstruction_over_three_ranks_is_that_of_one(world, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(7):
        Image.effect_noise((20, 18 + number), 80).convert("RGB").save(pictures / f"{number}.png")
    tokenizer = world.tokenizer
    one = reconstruction.evaluate(tokenizer, pictures, tmp_path / "one")
    port = free_port()
    processes = [
        multiprocessing.get_context("fork").Process(
            target=_rank, args=(rank, port, tokenizer, pictures, tmp_path / "three")
        )
        for rank in range(3)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(600)
        assert [process.exitcode for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
    three = json.loads((tmp_path / "three" / "summary.json").read_text())
    assert three["psnr"] == pytest.approx(one["psnr"], abs=1e-4)
    assert three["mean_image_psnr"] == pytest.approx(one["mean_image_psnr"], abs=1e-4)
    assert three["codebook"] == pytest.approx(one["codebook"])
    ids = [
        [json.loads(line)["record_id"] for line in (tmp_path / name / "per_image.jsonl").open()]
        for name in ("one", "three")
    ]
    assert ids[0] == ids[1] and len(ids[0]) == 7
    assert len(list((tmp_path / "three" / "pairs").iterdir())) == 14
