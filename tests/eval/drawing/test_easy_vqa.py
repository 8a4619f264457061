import json

import numpy as np
import pytest
from PIL import Image

from eval.drawing import easy_vqa as generation
from eval.drawing.settings import GenerationSettings
from mllm.model.sampler import Sampler
from runtime.settings import to_dict


def test_prompts_are_the_24_pairs_in_the_captions_wording():
    texts = [prompt.text for prompt in generation.drawing_prompts()]
    assert len(set(texts)) == 24 and "a teal triangle" in texts
    assert generation.CHANCE == 1 / 24


def test_colour_and_shape_are_judged_apart():
    image = Image.new("RGB", (64, 64), (245, 245, 245))
    image.paste((255, 0, 0), (10, 20, 50, 44))
    judged = {
        text: generation.judge(image, prompt)
        for prompt in generation.drawing_prompts()
        for text in [prompt.text]
    }
    assert [text for text, result in judged.items() if result["correct"]] == ["a red rectangle"]
    assert judged["a red circle"]["colour_correct"] and not judged["a red circle"]["shape_correct"]
    assert judged["a blue rectangle"]["shape_correct"]


def test_an_empty_picture_is_wrong_in_everything():
    blank = Image.fromarray(np.full((64, 64, 3), 240, dtype=np.uint8))
    result = generation.judge(blank, generation.drawing_prompts()[0])
    assert result["seen_shape"] is None
    assert not (result["colour_correct"] or result["shape_correct"] or result["correct"])


def test_summary_counts_what_is_saved(tmp_path, evaluations):
    summary = evaluations.drawing(tmp_path, seeds=2)
    rows = [json.loads(line) for line in (tmp_path / "judged.jsonl").read_text().splitlines()]
    assert len(rows) == summary["num_drawings"] == 48
    assert len({row["seed"] for row in rows}) == 48
    assert summary["num_correct"] == sum(row["correct"] for row in rows) < 48
    assert summary["sampler"]["guidance_scale"] == 5.0  # the model's own
    assert summary["accuracy"] == pytest.approx(np.mean(list(summary["per_prompt"].values())))
    assert summary["interval"][0] < summary["accuracy"] < summary["interval"][1]
    assert all((tmp_path / row["image"]).is_file() for row in rows)


def test_the_report_has_wrong_drawings_first(tmp_path, evaluations):
    summary = evaluations.drawing(tmp_path, seeds=1)
    page = (tmp_path / "report.html").read_text()
    assert f"{summary['accuracy']:.1%}" in page and "4.2%" in page
    assert page.index("✗ wrong") < page.index("✓ right")
    assert "seen: nothing" in page and "guidance_convention" in page
    assert summary["checkpoint_fingerprint"] == "fabricated" and "commit" in summary
    assert "By prompt" in (tmp_path / "report.md").read_text()


def test_given_settings_win_over_the_models_own(tmp_path, evaluations):
    given = {"guidance_scale": 2.0}
    sampler = evaluations.drawing(tmp_path, given, seeds=1)["sampler"]
    assert sampler == to_dict(Sampler(guidance_scale=2.0, temperature=1.0, top_k=40, top_p=1.0))


def test_first_candidates_are_judged_beside_the_chosen_ones(tmp_path, evaluations):
    plain = evaluations.drawing(tmp_path / "plain", seeds=2)
    assert plain["first_candidate_accuracy"] == plain["accuracy"]
    chosen = evaluations.drawing(tmp_path / "best", {"num_candidates": 4}, seeds=2)
    rows = (tmp_path / "best" / "judged.jsonl").read_text().splitlines()
    first = [json.loads(row)["first_candidate_correct"] for row in rows]
    assert chosen["first_candidate_accuracy"] == pytest.approx(np.mean(first))
    assert chosen["first_candidate_accuracy"] < chosen["accuracy"]


def test_settings_that_cannot_be(tmp_path, evaluations):
    model = {"model": evaluations.root / "mllm"}
    for settings, complaint in (
        ({"task": "geneval"} | model, "give --prompts"),
        ({}, "give --model"),
        (model | {"clip": "some/clip", "judge": "a/b"}, "a rule of its own, without --clip, --jud"),
        (model | {"seeds": 0}, "greater than 0"),
        (model | {"task": "unknown"}, "'geneval'"),
    ):
        with pytest.raises(ValueError, match=complaint):
            GenerationSettings(out=tmp_path, **settings)
