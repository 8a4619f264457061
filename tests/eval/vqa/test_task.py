import json
from types import SimpleNamespace

import pytest

from eval.vqa import task as vqa
from eval.vqa.report import pick_examples
from eval.vqa.settings import VQASettings
from runtime.errors import UserError
from tests.eval.conftest import FakeDataset, summary_of


def test_predictions_can_be_scored_again(tmp_path, evaluations):
    train = evaluations.root / "data" / "train"
    summary = evaluations.vqa(tmp_path, train_data=train)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    saved = VQASettings(predictions=tmp_path / "predictions.jsonl", out=tmp_path / "again")
    again = summary_of(vqa.evaluate(saved))
    assert again["overall"] == summary["overall"] and again["by_type"] == summary["by_type"]
    assert again["model"] == str(evaluations.root / "mllm")
    assert again["decoding"] == summary["decoding"]
    assert sum(row["correct"] for row in rows) == summary["overall"]["num_correct"]
    assert summary["question_only_baseline_counted_on"] == str(train)
    assert 0.8 < summary["overall"]["accuracy"] < 0.95  # one in seven says "yes", at times rightly


def test_the_baseline_says_when_it_counts_the_test_set_itself(tmp_path, evaluations):
    alone = tmp_path / "data" / "test"
    alone.parent.mkdir()
    (evaluations.root / "data" / "test").rename(alone)
    summary = evaluations.vqa(tmp_path / "out", data=str(alone))
    assert summary["question_only_baseline_counted_on"] == "the evaluated questions themselves"


def test_the_training_split_beside_the_data_is_found(tmp_path, evaluations):
    summary = evaluations.vqa(tmp_path / "out")
    assert summary["question_only_baseline_counted_on"].endswith("train")


def test_examples_hold_wrong_before_right_with_images(tmp_path, evaluations):
    evaluations.vqa(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    correct = [row["correct"] for row in rows]
    assert correct == sorted(correct) and {True, False} == set(correct)
    assert all((tmp_path / row["image"]).is_file() for row in rows)


def test_examples_take_turns_among_the_types():
    common = [{"type": "open, color", "n": i} for i in range(100)]
    rare = [{"type": "open, shape", "n": i} for i in range(2)]
    picked = pick_examples(common + rare, 6)
    assert [row["type"] for row in picked].count("open, shape") == 2
    assert picked == pick_examples(common + rare, 6)


def test_a_data_set_without_questions_is_refused(tmp_path, evaluations, monkeypatch):
    monkeypatch.setattr(FakeDataset, "texts", lambda self: iter([SimpleNamespace(questions=[])]))
    with pytest.raises(UserError, match="no questions"):
        evaluations.vqa(tmp_path)
