import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from eval.overview.run_report import summarize, write_report
from runtime.errors import UserError

REQUIRED_KEYS = {
    "seconds",
    "peak_memory_gb",
    "vqa.accuracy",
    "vqa.open_accuracy",
    "vqa.question_only_baseline",
    "reconstruction.psnr",
    "reconstruction.ssim",
    "codebook.semantic_usage",
    "codebook.pixel_usage",
    "drawing.accuracy",
}


VOID_TAGS = {"meta", "img", "link", "br"}


class Page(HTMLParser):
    """Collects what a browser would load, the ids, and checks that tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.ids, self.open, self.num_images = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)
        self.num_images += tag == "img"
        assert tag not in ("script", "link")
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open = self.open if tag in VOID_TAGS else self.open[:-1]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read_page(run):
    text = write_report(run).read_text()
    page = Page(text)
    assert page.open == []
    return text, page


def test_report_loads_nothing_from_elsewhere(finished_run):
    text, page = read_page(finished_run)
    assert page.num_images > 12 * 4 + 48  # pairs with their maps, drawings, questions
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(page.ids) == len(set(page.ids))


def test_report_of_a_finished_run_leaves_nothing_out(finished_run):
    summarize(finished_run, seconds=300.0, peak_memory_gb=2.5)
    text, _ = read_page(finished_run)
    assert "Left out" not in text
    assert "question only" in text and "mean image" in text and "4.2 % chance" in text
    answers = text[text.index("Answers, the wrong ones first") :]
    assert answers.index("✗ wrong") < answers.index("✓ right")
    assert "≥ 90 %" in text and "≤ 10 min" in text


@pytest.mark.parametrize(
    "missing",
    [
        "eval/reconstruction",
        "eval/vqa",
        "eval/generation",
        "eval/reconstruction/codes.npz",
        "eval",
        "mllm",
        "teacher/metrics.jsonl",
        "environment.json",
        "config.yaml",
        "timings.json",
    ],
)
def test_a_missing_part_is_said_and_left_out(finished_run, missing, monkeypatch):
    monkeypatch.setattr(
        "eval.overview.run_report.training_curves", lambda rows, svg_id: "<svg></svg>"
    )
    monkeypatch.setattr("eval.reconstruction.report.code_frequencies", lambda *_: "<svg></svg>")
    path = finished_run / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "Left out" in read_page(finished_run)[0]


def test_report_of_an_empty_folder_stands(tmp_path):
    text, page = read_page(tmp_path)
    assert text.count("Left out") >= 5 and page.num_images == 0


def test_a_run_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run"):
        write_report(tmp_path / "nowhere")


def test_text_of_the_data_is_escaped(finished_run):
    path = finished_run / "eval" / "vqa" / "examples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["prediction"] = "<script>alert(1)</script>"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "<script" not in read_page(finished_run)[0]


def test_summary_has_the_public_keys_flat(finished_run):
    summary = summarize(finished_run, seconds=300.0, peak_memory_gb=2.5)
    saved = json.loads((finished_run / "summary.json").read_text())
    assert saved == summary
    assert set(summary) >= REQUIRED_KEYS
    assert all(isinstance(summary[key], int | float) for key in REQUIRED_KEYS)
    assert not any(isinstance(value, dict | list) for value in summary.values())


def test_summary_of_an_unfinished_run_has_the_same_keys(finished_run, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    finished = summarize(finished_run, seconds=1.0, peak_memory_gb=1.0)
    assert summarize(empty, seconds=None, peak_memory_gb=None) == dict.fromkeys(finished)


def test_a_recipe_without_questions_has_what_it_measured_and_nothing_missing(finished_run):
    shutil.rmtree(finished_run / "eval" / "vqa")
    recipe = json.loads((finished_run / "config.yaml").read_text())
    del recipe["steps"]["eval-vqa"]
    (finished_run / "config.yaml").write_text(json.dumps(recipe | {"title": "Photographs"}))
    summarize(finished_run, seconds=300.0, peak_memory_gb=2.5)
    text, _ = read_page(finished_run)
    assert "<h1>Photographs</h1>" in text and "Left out" not in text
    assert "Questions answered right" not in text and "Drawings right" in text


def test_evaluations_are_known_by_their_task_wherever_they_lie(finished_run):
    before = summarize(finished_run, seconds=1.0, peak_memory_gb=1.0)
    (finished_run / "eval" / "vqa").rename(finished_run / "questions")
    assert summarize(finished_run, seconds=1.0, peak_memory_gb=1.0) == before
    folder = finished_run / "eval" / "other"
    folder.mkdir()
    scores = {"some score": {"value": 0.25, "interval": None}}
    (folder / "summary.json").write_text(json.dumps({"task": "something", "scores": scores}))
    text, _ = read_page(finished_run)
    assert "Something" in text and "some score" in text


def test_an_evaluation_outside_of_the_run_is_found_by_the_recipe(finished_run, tmp_path):
    before = summarize(finished_run, seconds=1.0, peak_memory_gb=1.0)
    shutil.move(finished_run / "eval" / "vqa", tmp_path / "a" / "b" / "c")
    recipe = json.loads((finished_run / "config.yaml").read_text())
    recipe["steps"]["eval-vqa"]["out"] = str(tmp_path / "a" / "b" / "c")
    (finished_run / "config.yaml").write_text(json.dumps(recipe))
    assert summarize(finished_run, seconds=1.0, peak_memory_gb=1.0) == before
    assert "Left out" not in read_page(finished_run)[0]
