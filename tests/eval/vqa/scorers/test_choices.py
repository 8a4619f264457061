"""Options by letter and text: SEED-Bench, MMBench, MMMU, GQA and one's own questions."""

import pytest

from eval.vqa.scorers import gqa, local, mme, mmmu, multiple_choice
from eval.vqa.scorers.task import BenchmarkQuestion
from eval.vqa.scorers.tasks import TASKS
from eval.vqa.scores import judge_all, summarize

OPTIONS = ("a red car", "a blue bus", "the sky", "none of these")


def choice(answer="B", key="7", options=OPTIONS, **more):
    return BenchmarkQuestion(key, "what?", (answer,), options=options, **more)


@pytest.mark.parametrize(
    ("text", "read"),
    [("B", "B"), ("b", "B"), (" B. a blue bus", "B"), ("Bus", "B"), ("E", ""), ("", ""),
     ("The sky", ""), ("(B)", "")],
)  # fmt: skip
def test_seedbench_takes_the_first_character(text, read):
    assert multiple_choice.judge_first_letter(choice(), text) == (read, float(read == "B"))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("B", "B"), ("B.", "B"), ("(B)", "B"), ("B)", "B"), ("B: a blue bus", "B"), (":B", "B"),
        ("The answer is B", "B"), ("A", "A"), ("A blue bus is here", "B"),  # an article: by text
        ("A or B", ""), ("A. or B.", ""), ("I see the sky above", "C"),
        ("a red car and the sky", ""), ("b", ""), ("A blue bus", "A"),  # three words: no article
        ("", ""), ("E", "E"),
    ],
)  # fmt: skip
def test_mmbench_finds_the_one_option_named(text, read):
    assert multiple_choice.mmbench_option(text, OPTIONS) == read


def test_circular_accuracy_wants_every_rotation():
    turned = [q for key in ("1", "2") for q in multiple_choice.rotations(choice(key=key))]
    assert [q.question_id for q in turned[:4]] == ["1", "1000001", "2000001", "3000001"]
    for q in turned:
        letter = q.answers[0]
        assert q.options["ABCD".index(letter)] == "a blue bus"
    said = {q.question_id: q.answers[0] for q in turned}
    said["3000002"] = "A" if said["3000002"] != "A" else "C"
    found = multiple_choice.circular_figures(judge_all(multiple_choice.MMBENCH, turned, said))
    assert found["circular_accuracy"] == 0.5 and found["num_items"] == 2
    always = dict.fromkeys(said, "B")
    found = multiple_choice.circular_figures(judge_all(multiple_choice.MMBENCH, turned, always))
    assert found["circular_accuracy"] == 0  # a letter out of habit is worth nothing


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("B", "B"), ("(B)", "B"), ("B.", "B"), ("Answer: B", "B"), ("(A) no, (C)", "C"),
        ("A or B ", "B"), ("b", ""), ("", ""), ("I think that it is the sky above", "C"),
        ("the sky", ""),  # too short to be read by its text
        ("(A) B C", "A"),  # brackets go first
        ("it is A. red.", "A"),
    ],
)  # fmt: skip
def test_mmmu_finds_the_last_option(text, read):
    assert mmmu.option_in(text, OPTIONS) == read


@pytest.mark.parametrize(
    ("answers", "text", "score"),
    [
        (("1000",), "The result is 1,000.", 1), (("3.14",), "x = 3.14159", 1), (("3",), "33", 0),
        (("blue",), "so it is Blue", 1), (("blue",), "red", 0), (("a",), "is a b", 1),
        (("a",), "banana", 0), (("12", "twelve"), "twelve", 1), (("0.5",), "thus .5", 1),
        (("2e3",), "about 2000 is 2e3", 1),
    ],
)  # fmt: skip
def test_mmmu_open_questions(answers, text, score):
    assert mmmu.judge(BenchmarkQuestion("0", "?", answers), text)[1] == score


def test_mmmu_says_what_guessing_would_add():
    questions = [choice(key=str(i)) for i in range(200)]
    judged = judge_all(mmmu.TASK, questions, {q.question_id: "no idea" for q in questions})
    found = mmmu.figures(judged)
    assert sum(map(mmmu.TASK.is_unread, judged)) == 200
    assert 0.15 < found["accuracy_with_guesses"] < 0.35  # a quarter, as guesses go


@pytest.mark.parametrize(
    ("text", "score"),
    [("yes", 1), ("Yes", 1), ("yes.", 1), ("yes..", 1), ("yes ", 0), ("yes!", 0), ("the yes", 0)],
)
def test_gqa_forgives_case_and_the_final_period(text, score):
    assert gqa.judge(BenchmarkQuestion("0", "?", ("yes",)), text)[1] == score


def test_gqa_tells_open_from_binary():
    kinds = ["query", "verify", "choose", "query"]
    questions = [BenchmarkQuestion(str(i), "?", ("yes",), k) for i, k in enumerate(kinds)]
    said = {"0": "yes", "1": "yes", "2": "no", "3": "no"}
    found = gqa.binary_and_open(judge_all(gqa.TASK, questions, said))
    assert found == {"binary_accuracy": 0.5, "open_accuracy": 0.5}


ANIMALS = ("cat", "dog", "a blue box", "An apple.")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        # By letter.
        ("B", "B"), ("b.", "B"), ("(b)", "B"), ("[B]", "B"), ("B:", "B"), ("B) dog", "B"),
        ("B. dog", "B"), ("(B) dog", "B"), ("(B). dog", "B"), ("B: dog\n", "B"),
        ("b, the dog", "B"),
        ("B. It barks.", "B"), ("B. A dog is one.", "B"), ("**B. dog**", "B"),
        ("The answer is B", "B"), ("So the answer is (B).", "B"), ("Answer: C", "C"),
        ("The correct option is D.", "D"), ("Option B", "B"), ("It is B", "B"),
        ("B is correct", "B"), ("C is the right answer", "C"), ("I think it is (C).", "C"),
        # By text.
        ("Dog.", "B"), ("The answer is dog.", "B"), ("A blue box", "C"), ("an apple", "D"),
        # Neither, or both, or another: unread.
        ("", ""), ("E", ""), ("E. cow", ""), ("a dog", ""), ("A dog runs", ""), ("Bdog", ""),
        ("The answer is A dog", ""), ("It is a dog", ""), ("blue box", ""), ("no idea", ""),
        ("A. dog", ""), ("A or B", ""), ("A, B", ""), ("(A) or (B)", ""),
    ],
)  # fmt: skip
def test_own_options_are_read_where_they_are_plain(text, read):
    assert local.judge_option(choice(options=ANIMALS), text) == (read, float(read == "B"))


def test_an_option_that_spells_a_letter_does_not_take_its_place():
    assert local.named_option("B", ("b", "a")) == "B"
    assert local.named_option("cafe\u0301", ("tea", "Caf\u00e9")) == "B"


def unread(task, *predictions, answer="yes"):
    """How many answers a rule cannot read."""
    options = OPTIONS if answer in ("A", "B") else ()
    questions = [
        BenchmarkQuestion(str(i), "?", (answer,) * (10 if task.name in TEN else 1), options=options)
        for i in range(len(predictions))
    ]
    said = {str(i): text for i, text in enumerate(predictions)}
    judged = judge_all(task, questions, said)
    return sum(map(task.is_unread, judged)), summarize(task, judged)["num_unread"]


TEN = ("vqav2", "textvqa", "soft")


@pytest.mark.parametrize("name", [name for name in TASKS if name != "mme"])
def test_every_rule_counts_what_it_cannot_read(name):
    answer = "B" if name in ("seedbench", "mmbench", "mmmu", "option") else "yes"
    assert unread(TASKS[name], answer, "", " \n", answer=answer) == (2, 2)


def test_answers_of_other_forms_are_unread():
    assert unread(TASKS["option"], "B. a blue bus", "who knows", "A or B", answer="B") == (2, 2)
    assert unread(TASKS["seedbench"], "B", "(B)", answer="B") == (1, 1)
    assert unread(TASKS["mmbench"], "B", "A or B", answer="B") == (1, 1)
    assert unread(TASKS["pope"], "Yes.", "no", "there is not", "a dog") == (1, 1)  # read as a yes
    judged = judge_all(mme.TASK, [BenchmarkQuestion("0", "?", ("Yes",))], {"0": "I say yes"})
    assert sum(map(mme.TASK.is_unread, judged)) == 1


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        (choice("E"), "has the answer 'E' where its options are ABCD"),
        (choice("AB"), "has the answer 'AB' where its options are ABCD"),
        (choice(options=("one",)), "has 1 options"),
        (choice(), None),
    ],
)
def test_letters_that_no_option_has_are_complained_of(question, complaint):
    assert multiple_choice.SEED_BENCH.complaint(question) == complaint
