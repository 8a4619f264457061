"""`semhitok ask`: lists of questions in and out, options, and several images."""

import json
import re

import pytest
import torch

from mllm.serving.answering import Answerer
from mllm.serving.ask import Asking
from mllm.serving.questions import Asked, read_questions
from runtime.resume import file_lock
from semhitok import main as cli
from tests.mllm.tiny import make_model, picture

COLOURS = ["red", "blue", "green box"]


@pytest.fixture(scope="module")
def folder(world, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")
    make_model(world).save_pretrained(folder)
    processor.save_pretrained(folder)
    for name in ("red", "blue", "green"):
        picture(name, "box").save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def answerer(folder):
    return Answerer.load(folder, "cpu")


@pytest.fixture
def ask(folder, capsys):
    def run(*options: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["ask", "--model", str(folder), *map(str, options)])
        written = capsys.readouterr()
        return code, written.out, written.err

    return run


def write_list(folder, name="list.jsonl", count=7):
    """Questions in all their forms, of lengths that differ."""
    rows = []
    for n in range(count):
        row = {
            "id": f"q{n}",
            "image": ["red.png", "blue.png"][n % 2],
            "question": "why? " * (n + 1),
        }
        if n % 3 == 1:
            row["options"] = COLOURS
        if n % 3 == 2:
            row |= {"images": ["green.png", "red.png"], "question": "is <image> like <image>?"}
            row["image"] = None  # as tables write what a row has not
        rows.append(row)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def test_a_batch_answers_and_weighs_like_one_at_a_time(answerer, folder):
    asked = list(read_questions(write_list(folder)))
    together = [found for part in Asking(answerer, 5, 6).answers(asked) for found in part]
    for one, found in zip(asked, together, strict=True):
        [[alone]] = Asking(answerer, 1, 6).answers([one])
        assert alone["answer"] == found["answer"]
        for option, value in found.get("log_likelihoods", {}).items():
            assert alone["log_likelihoods"][option] == pytest.approx(value, abs=1e-4)
    assert sum("log_likelihoods" in found for found in together) == 2
    assert len({found["answer"] for found in together}) > 3


def test_the_likelihood_of_an_option_is_that_of_its_tokens_and_the_end(answerer, folder):
    question = Asked("0", (folder / "red.png",), "<image>what color is it?", tuple(COLOURS))
    [[found]] = Asking(answerer).answers([question])
    tokenizer, model = answerer.processor.tokenizer, answerer.model
    image = answerer.image_tokens([picture("red", "box")])[0].tolist()
    for option, value in found["log_likelihoods"].items():
        prompt = [
            image.pop(0) if i == model.config.image_token_id else i
            for image in [list(image)]
            for i in answerer.prompt(question.messages)
        ]
        ending = tokenizer(option, add_special_tokens=False)["input_ids"]
        ending.append(tokenizer.eos_token_id)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + ending])).logits[0]
        scores = logits[len(prompt) - 1 : -1, : model.vocabulary.offset].log_softmax(-1)
        expected = float(scores.gather(-1, torch.tensor(ending).unsqueeze(-1)).sum())
        assert value == pytest.approx(expected, abs=1e-4)
    assert found["answer"] == max(found["log_likelihoods"], key=found["log_likelihoods"].get)


def test_one_question_prints_its_answer_and_several_print_jsonl(ask, folder, answerer):
    code, printed, _ = ask("--image", folder / "red.png", "--question", "what color is it?")
    [[expected]] = Asking(answerer).answers(
        [Asked("0", (folder / "red.png",), "<image>what color is it?")]
    )
    assert (code, printed) == (0, expected["answer"] + "\n")
    two = ["--image", folder / "red.png", folder / "blue.png", "--question", "a?", "b?"]
    lines = [json.loads(line) for line in ask(*two)[1].splitlines()]
    assert [(line["images"][0][-8:], line["question"]) for line in lines] == [
        ("/red.png", "a?"), ("/red.png", "b?"), ("blue.png", "a?"), ("blue.png", "b?"),
    ]  # fmt: skip
    code, printed, _ = ask(*two[:3], "--question", "alike?", "--together", "--options", "yes,no")
    answer, *options = printed.splitlines()
    assert answer in ("yes", "no")
    shares = [float(line.split("%")[0]) for line in options]
    assert (
        len(shares) == 2 and shares[0] >= shares[1] and sum(shares) == pytest.approx(100, abs=0.2)
    )
    assert options[0].endswith(answer)


def test_a_list_goes_on_where_it_stopped(ask, folder, tmp_path):
    questions, out = write_list(folder), tmp_path / "answers.jsonl"
    assert ask("--questions", questions, "--out", out)[0] == 0
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == [f"q{n}" for n in range(7)]
    out.write_bytes(b"".join(lines[:3]) + lines[3][:10])
    code, _, error = ask("--questions", questions, "--out", out)
    assert code == 0 and "7/7 question" in error
    assert out.read_bytes() == whole
    other = write_list(folder, "other.jsonl", 2)
    code, _, error = ask("--questions", other, "--out", out)
    assert code == 2 and "line 3 of" in error and "choose another file" in error
    assert out.read_bytes() == whole
    code, _, error = ask("--questions", questions, "--out", out, "--options", "one,two,three")
    assert code == 2 and "chooses from other options" in error
    assert out.read_bytes() == whole


@pytest.mark.parametrize("more", [{}, {"options": ["a", "red " * 900]}])
def test_a_question_too_long_is_told_of_before_any_is_answered(ask, folder, tmp_path, more):
    question = {"image": "red.png", "question": "why?" if more else "why " * 900, "id": "long"}
    path, out = folder / "long.jsonl", tmp_path / "answers.jsonl"
    first = {"image": "red.png", "question": "why?"}
    path.write_text(f"{json.dumps(first)}\n{json.dumps(question | more)}\n")
    code, _, error = ask("--questions", path, "--out", out, "--batch-size", 1)
    assert code == 2 and re.search("Question long: .* at most 128: shorten", error), error
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 1 of .* is not valid JSON"),
        ("[]", "line 1 of .* is not an object"),
        ('{"image": "red.png"}', "has no question"),
        ('{"image": "red.png", "question": " <image> "}', "has no question"),
        ('{"image": "red.png", "question": "<image> or <image>?"}', "shows 2 images .* names 1"),
        ('{"image": 3, "question": "a?"}', "in another way than as file names"),
        ('{"image": "nowhere.png", "question": "a?"}', "nowhere.png is not there"),
        ('{"image": "red.png", "question": "a?", "options": ["a"]}', "no two different options"),
        ('{"image": "red.png", "question": "a?", "options": "ab"}', "not a list of texts"),
        ('{"image": "red.png", "question": "a?", "options": 5}', "not a list of texts"),
        ('{"image": "red.png", "question": "a?", "options": ["a", " a"]}', "no two different"),
        ('{"image": "red.png", "question": "\\ud800?"}', "contains an unpaired surrogate"),
        ('{"image": "' + "x" * 5000 + '", "question": "a?"}', "cannot be read .File name too long"),
        ('{"image": "red.png", "question": "' + "why " * 900 + '"}', "at most 128: shorten"),
        (" ", "has no questions"),
        (
            '{"image": "red.png", "images": ["blue.png"], "question": "a?"}',
            "line 1 of .* names images under both image and images",
        ),
    ],
)
def test_a_bad_line_is_one_sentence(ask, folder, tmp_path, line, complaint):
    path = folder / "bad.jsonl"
    path.write_text(line + "\n")
    code, printed, error = ask("--questions", path)
    assert (code, printed) == (2, "")
    assert re.search(complaint, error.splitlines()[-1]), error


@pytest.mark.parametrize("images", [None, [], ["red.png"]])
def test_an_image_counts_whatever_stands_beside_it(folder, tmp_path, images):
    row = {"images": images, "image": "red.png", "question": "a?", "id": None, "question_id": 7}
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps(row))
    assert [*read_questions(path)] == [Asked("7", (tmp_path / "red.png",), "<image>a?")]


def test_fields_that_are_not_read_are_named(tmp_path, capsys):
    rows = [{"question": "a?", "choices": ["x", "y"]}, {"question": "b?", "option": ["x"]}]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert len([*read_questions(path)]) == 2
    assert capsys.readouterr().err == (
        f"{path}: left out are 1 values of the field 'choices' (did you mean 'options'?), 1 values "
        f"of the field 'option' (did you mean 'options'?)\n"
    )


def test_a_second_run_into_a_file_in_use_is_refused(ask, folder, tmp_path):
    out = tmp_path / "answers.jsonl"
    with file_lock(out):
        code, _, error = ask("--questions", write_list(folder), "--out", out)
    assert code == 2 and "another run" in error and not out.exists()
