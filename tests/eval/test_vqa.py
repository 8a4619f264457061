import json
from types import SimpleNamespace

import pytest

from eval import vqa
from semhitok.errors import UserError


def test_predictions_can_be_scored_again(tmp_path, fake_models):
    summary = vqa.evaluate("mllm", "data/test", tmp_path, train_data_dir="data/train")
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert vqa.score(rows)["overall"] == summary["overall"]
    assert sum(row["correct"] for row in rows) == summary["overall"]["num_correct"]
    assert summary["question_only_baseline_counted_on"] == "data/train"
    assert 0.8 < summary["overall"]["accuracy"] < 0.95  # one in seven says "yes", at times rightly


def test_the_baseline_says_when_it_counts_the_test_set_itself(tmp_path, fake_models):
    summary = vqa.evaluate("mllm", tmp_path / "data" / "test", tmp_path / "out")
    assert summary["question_only_baseline_counted_on"] == "the evaluated questions themselves"


def test_the_training_split_beside_the_data_is_found(tmp_path, fake_models):
    (tmp_path / "data" / "train").mkdir(parents=True)
    summary = vqa.evaluate("mllm", tmp_path / "data" / "test", tmp_path / "out")
    assert summary["question_only_baseline_counted_on"].endswith("train")


def test_examples_hold_wrong_before_right_with_images(tmp_path, fake_models):
    vqa.evaluate("mllm", "data/test", tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    correct = [row["correct"] for row in rows]
    assert correct == sorted(correct) and {True, False} == set(correct)
    assert all((tmp_path / row["image"]).is_file() for row in rows)


def test_examples_take_turns_among_the_types():
    common = [{"type": "open, color", "n": i} for i in range(100)]
    rare = [{"type": "open, shape", "n": i} for i in range(2)]
    picked = vqa.pick_examples(common + rare, 6)
    assert [row["type"] for row in picked].count("open, shape") == 2
    assert picked == vqa.pick_examples(common + rare, 6)


def test_a_data_set_without_questions_is_refused(tmp_path, fake_models, monkeypatch):
    empty = SimpleNamespace(questions=[])
    monkeypatch.setattr("data_pipelines.dataset.PreparedDataset", lambda *_, **__: [empty])
    with pytest.raises(UserError, match="no questions"):
        vqa.evaluate("mllm", "data/test", tmp_path)


def test_command_writes_results_and_settings(tmp_path, fake_models, capsys):
    args = SimpleNamespace(model="mllm", data="data/test", out=tmp_path / "out", batch_size=8)
    assert vqa.command(args) == tmp_path / "out"
    assert {"summary.json", "predictions.jsonl", "config.yaml", "environment.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert "questions right" in capsys.readouterr().out
