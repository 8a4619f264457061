"""The evaluations end to end, on a tiny untrained model: what they write and that they agree."""

import json
import multiprocessing
import os
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from eval.analysis import input_ablation
from eval.analysis.input_ablation import AS_IT_IS
from eval.analysis.settings import InputAblationSettings
from eval.drawing import task as drawing_task
from eval.drawing.layouts import check_layout, read_prompts
from eval.drawing.settings import GenerationSettings
from eval.overview import run_all
from eval.overview.settings import RunAllSettings
from eval.reconstruction import task as reconstruction
from eval.reconstruction.settings import ReconstructionSettings
from eval.vqa import task as vqa
from eval.vqa.predictions import read_predictions
from eval.vqa.settings import VQASettings
from mllm.saved.fingerprint import model_fingerprint
from runtime.errors import UserError
from semhitok import main as cli
from tests.eval.conftest import summary_of
from tests.mllm.tiny import World, launch
from tests.ports import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def test_a_benchmark_from_prompts_to_a_score(world, tmp_path, monkeypatch):
    class Judge:
        """Finds everything half likely."""

        def __init__(self, name):
            self.label = name

        def check(self, questions):
            assert list(questions) == ["is it red?"] * 2

        def loglikelihood(self, image, question, answer):
            return -0.693

    monkeypatch.setattr("eval.drawing.question_scores.VisionLanguageJudge", Judge)
    rows = [
        {"prompt": text, "vqa_list": [["is it red?", "yes"]], "skills": ["attribute"]}
        for text in ("a red bar", "a blue box")
    ]
    file = tmp_path / "geneval2.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {"task": "geneval2", "prompts": file, "out": tmp_path / "out", "judge": "a/judge"}
    model = shutil.copytree(world.start, tmp_path / "model")
    settings = GenerationSettings(**common, model=model)
    summary = summary_of(drawing_task.evaluate(settings))
    assert summary["checkpoint_fingerprint"] == model_fingerprint(world.start)
    check_layout("geneval2", tmp_path / "out" / "export", read_prompts("geneval2", file))
    assert summary["sampler"] and summary["prompts_rewritten"] is False and summary["seed"] == 0
    assert summary["scores"]["Soft-TIFA AM, judged by a/judge"]["value"] == pytest.approx(0.5, 1e-2)
    assert "a blue box" in (tmp_path / "out" / "report.html").read_text()
    before = (tmp_path / "out" / "export" / "images" / "00001.png").read_bytes()
    (tmp_path / "out" / "export" / "images" / "00001.png").rename(
        tmp_path / "out" / "export" / "images" / ".00001.png.0123.tmp"  # as a kill may leave it
    )
    drawing_task.evaluate(settings)  # resumes: the same picture again
    assert (tmp_path / "out" / "export" / "images" / "00001.png").read_bytes() == before
    assert len(list((tmp_path / "out" / "export" / "images").iterdir())) == 2
    # A model trained on has the same config and other weights: its drawings are not mixed in.
    weights = load_file(model / "model.safetensors")
    weights[max(weights)] += 1
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="drawn with another checkpoint_fingerprint"):
        drawing_task.evaluate(settings)
    with pytest.raises(UserError, match="a run with another model"):
        drawing_task.evaluate(GenerationSettings(**common, model=world.start))


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_drawn(world, tmp_path):
    file = tmp_path / "prompts.json"
    rows = [{"prompt_id": 1, "Prompt": "a red bar"}, {"prompt_id": 2, "Prompt": "a bar " * 5000}]
    file.write_text(json.dumps(rows))
    out = tmp_path / "out"
    settings = GenerationSettings(task="wise", prompts=file, model=world.start, out=out)
    with pytest.raises(UserError, match="at most"):
        drawing_task.evaluate(settings)
    assert not list((out / "export").rglob("*.png"))


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
    settings = RunAllSettings(
        model=world.start, data=str(world.data), out=tmp_path / "out", seeds=1, max_images=12
    )
    summary = summary_of(run_all.evaluate(settings))
    assert set(summary["seconds_of"]) == {"reconstruction", "vqa", "generation", "input_ablation"}
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
    assert "Input ablation" in page and "✗ wrong" in page


def test_the_input_ablation_answers_as_the_evaluation_of_questions_does(world, tmp_path):
    common = {"model": world.start, "data": str(world.data)}
    settings = InputAblationSettings(**common, out=tmp_path / "out", seeds=0)
    summary = summary_of(input_ablation.evaluate(settings))
    vqa.evaluate(VQASettings(**common, out=tmp_path / "vqa"))
    rows = read_predictions(tmp_path / "vqa")
    right = [row["prediction"].lower().strip() in row["answers"] for row in rows]
    whole = summary["variants"][AS_IT_IS]
    assert whole["vqa"]["value"] == pytest.approx(sum(right) / len(right))
    assert summary["num_questions"] == len(rows) and "drawing" not in whole


def _rank(rank, port, tokenizer, pictures, out):
    torch.set_num_threads(1)  # a fork of a process with threads must not use its pool
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "3"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    reconstruction.evaluate(
        ReconstructionSettings(tokenizer=tokenizer, data=str(pictures), out=out, batch_size=2)
    )


def test_reconstruction_over_three_ranks_is_that_of_one(world, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(7):
        Image.effect_noise((20, 18 + number), 80).convert("RGB").save(pictures / f"{number}.png")
    tokenizer = world.tokenizer
    one = summary_of(
        reconstruction.evaluate(
            ReconstructionSettings(tokenizer=tokenizer, data=str(pictures), out=tmp_path / "one")
        )
    )
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


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("reconstruction", {"max_images": 4}, {"max_images": 3}),
        ("vqa", {}, {"instruction": "Be short."}),
        ("drawing", {"seeds": 1}, {"seeds": 2}),
    ],
)
def test_a_finished_evaluation_of_other_settings_stays(evaluations, tmp_path, name, first, then):
    evaluate, out = getattr(evaluations, name), tmp_path / "out"
    evaluate(out, **first)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"another {next(iter(then))}; .* or delete {out}"):
        evaluate(out, **then)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    evaluate(out, **first)
