"""VQAv2 and TextVQA against outcomes worked out by hand from the official scorers, and fuzzed."""

import random
import re

import pytest

from eval.vqa.scorers import textvqa, vqav2
from eval.vqa.scorers.task import BenchmarkQuestion
from eval.vqa.scorers.vqa_text import CONTRACTIONS, strip_punctuation


def question(*answers):
    return BenchmarkQuestion("0", "what?", answers)


def score(task, prediction, *answers):
    return task.judge(question(*answers), prediction)[1]


# What each cleaner makes of a text: (text, VQAv2's, TextVQA's).
CLEANED = [
    # nothing to do
    ("red", "red", "red"),
    ("Red", "red", "red"),
    ("RED CAR", "red car", "red car"),
    ("red  car", "red car", "red car"),
    ("", "", ""),
    # articles go where they are words, and only there
    ("a dog", "dog", "dog"),
    ("an apple", "apple", "apple"),
    ("the the dog", "dog", "dog"),
    ("The Dog", "dog", "dog"),
    ("a", "", ""),
    ("theater", "theater", "theater"),
    ("banana", "banana", "banana"),
    ("panda an", "panda", "panda"),
    ("other", "other", "other"),
    ("a.", "", ""),
    # numbers to ten, as words
    ("one", "1", "1"),
    ("Two", "2", "2"),
    ("ten", "10", "10"),
    ("none", "0", "0"),
    ("zero", "0", "0"),
    ("eleven", "eleven", "eleven"),
    ("twenty one", "twenty 1", "twenty 1"),
    ("someone", "someone", "someone"),
    ("one-two", "1 2", "1 2"),
    ("none.", "0", "0"),
    ("3", "3", "3"),
    # contractions
    ("dont", "don't", "don't"),
    ("DONT", "don't", "don't"),
    ("dont know", "don't know", "don't know"),
    ("don't", "don't", "don't"),
    ("cant", "can't", "can't"),
    ("oclock", "o'clock", "o'clock"),
    ("4 oclock", "4 o'clock", "4 o'clock"),
    ("maam", "ma'am", "ma'am"),
    ("yall", "y'all", "y'all"),
    ("twas", "'twas", "'twas"),
    ("somebody'd", "somebodyd", "somebodyd"),
    ("im", "im", "im"),  # the map has "Im", and words are lower case by then
    ("Ive", "ive", "ive"),
    ("its", "its", "its"),
    ("wheres", "where's", "where's"),
    ("she's", "she's", "she 's"),
    ("hes", "he's", "he's"),  # TextVQA cuts "'s" off before, so this one stays whole
    ("he's", "he's", "he 's"),
    ("let's go", "let's go", "let 's go"),
    ("dog's", "dog's", "dog 's"),
    ("dogs'", "dogs'", "dogs'"),
    ("john's dog's", "john's dog's", "john 's dog 's"),
    # periods: kept only before a digit
    ("1.", "1", "1"),
    ("1.5", "1.5", "1.5"),
    (".5", ".5", ".5"),
    ("1.5.", "1.5", "1.5"),
    ("yes.", "yes", "yes"),
    ("U.S.A.", "usa", "usa"),
    ("p.m.", "pm", "pm"),
    ("10 a.m.", "10 am", "10 am"),
    ("...", "", ""),
    ("v.2", "v.2", "v.2"),
    ("2.x", "2x", "2x"),
    ("www.site.com", "wwwsitecom", "wwwsitecom"),
    # commas
    ("1,000", "1000", "1000"),
    ("1,000,000", "1000000", "1000000"),
    ("red, white", "red white", "red white"),
    ("red,white", "red white", "redwhite"),
    ("red ,white", "red white", "red white"),
    ("1, 2", "1 2", "1 2"),
    ("1,2", "12", "12"),
    ("1,a", "1", "1a"),  # "1 a", and the article goes
    ("1,000 red/blue", "1000 redblue", "1000 red blue"),
    ("1,000-2,000", "10002000", "1000 2000"),
    # question marks
    ("yes?", "yes", "yes"),
    ("what?no", "what no", "whatno"),
    ("yes ?", "yes", "yes"),
    # other marks: a space, or nothing where one of them touches a space
    ("black-white", "black white", "black white"),
    ("black - white", "black white", "black white"),
    ("black- white", "black white", "black white"),
    ("t-shirt", "t shirt", "t shirt"),
    ("a-b -c", "ab c", "ab c"),
    ("red/blue", "red blue", "red blue"),
    ("red / blue", "red blue", "red blue"),
    ("and/or / not", "andor not", "andor not"),
    ("(red)", "red", "red"),
    ("red (dark)", "red dark", "red dark"),
    ("red(dark)", "red dark", "red dark"),
    ("[1]", "1", "1"),
    ("{a}", "", ""),
    ('"stop"', "stop", "stop"),
    ('the "stop" sign', "stop sign", "stop sign"),
    ("a_b", "b", "b"),
    ("x_y", "x y", "x y"),
    ("2+2", "2 2", "2 2"),
    ("2 + 2", "2 2", "2 2"),
    ("x=1", "x 1", "x 1"),
    ("<b>", "b", "b"),
    ("me@home", "me home", "me home"),
    ("back\\slash", "back slash", "back slash"),
    ("tick`", "tick", "tick"),
    ("wow!", "wow", "wow"),
    ("wow!!", "wow", "wow"),
    ("wow! yes!", "wow yes", "wow yes"),
    ("no;yes", "no yes", "no yes"),
    # marks that nobody touches
    ("10:30", "10:30", "10:30"),
    ("50%", "50%", "50%"),
    ("$5", "$5", "$5"),
    ("#1", "#1", "#1"),
    ("r&b", "r&b", "r&b"),
    ("c*", "c*", "c*"),
    ("café", "café", "café"),
    # several at once
    ("The 2 dogs, and a cat.", "2 dogs and cat", "2 dogs and cat"),
    ("It's a 7-up can!", "it's 7 up can", "it 's 7 up can"),
    ("No, it isnt.", "no it isn't", "no it isn't"),
    ("One hundred and two", "1 hundred and 2", "1 hundred and 2"),
]


@pytest.mark.parametrize(("text", "expected"), [(t, v) for t, v, _ in CLEANED])
def test_vqav2_cleans_as_worked_out(text, expected):
    assert vqav2.clean(text) == expected


@pytest.mark.parametrize(("text", "expected"), [(t, v) for t, _, v in CLEANED])
def test_textvqa_cleans_as_worked_out(text, expected):
    assert textvqa.clean(text) == expected


TEN_YES = ("yes",) * 10
PAIRS = [
    # how many of ten agree: 0, 1, 2, 3, 4 and more
    ("red", ("blue",) * 9 + ("green",), 0.0, 0.0),
    ("red", ("blue",) * 9 + ("red",), 0.3, 0.3),
    ("red", ("blue",) * 8 + ("red",) * 2, 0.6, 0.6),
    ("red", ("blue",) * 7 + ("red",) * 3, 0.9, 0.9),
    ("red", ("blue",) * 6 + ("red",) * 4, 1.0, 1.0),
    ("red", ("blue",) * 1 + ("red",) * 9, 1.0, 1.0),
    # all ten the same: VQAv2 compares as written, TextVQA cleans
    ("yes", TEN_YES, 1.0, 1.0),
    ("Yes", TEN_YES, 0.0, 1.0),
    ("yes.", TEN_YES, 0.0, 1.0),
    ("the yes", TEN_YES, 0.0, 1.0),
    (" yes\n", TEN_YES, 1.0, 1.0),
    ("yes", ("Yes",) * 10, 0.0, 1.0),
    ("Yes", ("Yes",) * 10, 1.0, 1.0),
    ("2", ("two",) * 10, 0.0, 1.0),
    ("two", ("two",) * 10, 1.0, 1.0),
    ("1000", ("1,000",) * 10, 0.0, 1.0),
    ("yes", ("yes",) * 9 + ("yes ",), 1.0, 1.0),  # the same after trimming
    ("Yes", ("yes",) * 9 + ("yes\n",), 0.0, 1.0),
    # nine alike and one other: both clean
    ("Yes", ("yes",) * 9 + ("no",), 1.0, 1.0),
    ("yes.", ("yes",) * 9 + ("no",), 1.0, 1.0),
    ("2", ("two",) * 9 + ("3",), 1.0, 1.0),
    ("1000", ("1,000",) * 9 + ("many",), 1.0, 1.0),
    ("a yes", ("yes",) * 9 + ("Yes",), 1.0, 1.0),
    # different spellings of the annotators fall together
    ("2", ("two",) * 2 + ("2",) * 2 + ("3",) * 6, 1.0, 1.0),
    ("don't know", ("dont know",) * 3 + ("x",) * 7, 0.9, 0.9),
    ("t-shirt", ("t shirt",) * 2 + ("tshirt",) * 8, 0.6, 0.6),
    # cleaned to nothing
    ("a", ("the",) * 3 + ("x",) * 7, 0.9, 0.9),
    ("", ("x",) * 9 + ("y",), 0.0, 0.0),
    # commas and "'s", where the two differ
    ("red,white", ("red white",) * 4 + ("x",) * 6, 1.0, 0.0),
    ("redwhite", ("red,white",) * 4 + ("x",) * 6, 0.0, 1.0),
    ("mcdonald 's", ("mcdonald's",) * 4 + ("x",) * 6, 0.0, 1.0),
    ("mcdonald's", ("mcdonald's",) * 4 + ("x",) * 6, 1.0, 1.0),
    # line ends and tabs
    ("stop\nsign", ("stop sign",) * 4 + ("x",) * 6, 1.0, 1.0),
    ("stop\tsign", ("stop sign",) * 10, 1.0, 1.0),
]


@pytest.mark.parametrize(("prediction", "answers", "expected"), [p[:3] for p in PAIRS])
def test_vqav2_scores_as_worked_out(prediction, answers, expected):
    assert len(answers) == 10
    assert score(vqav2, prediction, *answers) == pytest.approx(expected)


@pytest.mark.parametrize(("prediction", "answers", "expected"), [(p[0], p[1], p[3]) for p in PAIRS])
def test_textvqa_scores_as_worked_out(prediction, answers, expected):
    assert score(textvqa, prediction, *answers) == pytest.approx(expected)


def test_there_are_two_hundred_hand_made_pairs():
    assert 2 * (len(CLEANED) + len(PAIRS)) >= 200


def test_the_33rd_period_stays():
    """The official call passes re.UNICODE, which is 32, where `sub` takes its count."""
    assert strip_punctuation("." * 32) == ""
    assert strip_punctuation("." * 33) == "."
    assert strip_punctuation("a." * 40) == "a" * 32 + "a." * 8


def test_every_contraction_that_can_apply_does():
    dead = {key for key in CONTRACTIONS if key != key.lower()}
    assert dead == {"Id've", "I'dve", "Im", "Ive"} and len(CONTRACTIONS) == 120
    for key, value in CONTRACTIONS.items():
        assert vqav2.clean(key) == (value if key not in dead else key.lower())


# A second reading of the two scorers, as plainly as can be, for the fuzz below.


def spelled_out_punctuation(text):
    out = text
    for mark in [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<",
                 "@", "`", ",", "?", "!"]:  # fmt: skip
        touching = (mark + " ") in text or (" " + mark) in text
        digits = any(
            text[i].isdecimal() and text[i + 1] == "," and text[i + 2].isdecimal()
            for i in range(len(text) - 2)
        )
        out = out.replace(mark, "" if touching or digits else " ")
    kept, removed = [], 0
    for place, character in enumerate(out):
        following = out[place + 1 : place + 2]
        if character == "." and not following.isdecimal() and removed < 32:
            removed += 1
            continue
        kept.append(character)
    return "".join(kept)


def spelled_out_words(text):
    kept = []
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    digits = {name: str(number) for number, name in enumerate(names)} | {"none": "0"}
    for word in text.lower().split():
        word = digits.get(word, word)
        if word in {"a", "an", "the"}:
            continue
        kept.append(CONTRACTIONS.get(word, word))
    return " ".join(kept)


def spelled_out_score(compared, answers):
    credit = []
    for i in range(10):
        others = answers[:i] + answers[i + 1 :]
        credit.append(min(1.0, others.count(compared) / 3))
    return sum(credit) / 10


def spelled_out_vqav2(prediction, answers):
    trimmed = [re.sub(r"[\n\t]", " ", a).strip() for a in answers]
    said = re.sub(r"[\n\t]", " ", prediction).strip()
    if len(set(trimmed)) > 1:
        trimmed = [spelled_out_words(spelled_out_punctuation(a)) for a in trimmed]
        said = spelled_out_words(spelled_out_punctuation(said))
    return spelled_out_score(said, trimmed)


def spelled_out_textvqa(prediction, answers):
    def clean(text):
        text = text.lower()
        text = "".join(c for c in text if c not in ",?").replace("'s", " 's").strip()
        text = re.sub(r"[\n\t]", " ", text).strip()
        return spelled_out_words(spelled_out_punctuation(text))

    return spelled_out_score(clean(prediction), [clean(a) for a in answers])


PIECES = [
    "red",
    "Red",
    "the",
    "a",
    "an",
    "THE",
    "one",
    "Two",
    "none",
    "3",
    "10",
    "1,000",
    "2.5",
    ".5",
    "1.",
    "dont",
    "don't",
    "im",
    "she's",
    "oclock",
    "yes",
    "YES",
    "no",
    "t-shirt",
    "red/blue",
    "(x)",
    '"y"',
    "u.s.",
    "wow!",
    "what?",
    "b_c",
    "and",
]
GLUE = (" ", " ", " ", "", ",", ", ", "-", " - ", ".", ". ", "\n", "\t", "'s ", "/", "?")


def fuzzed_text(chance):
    text = chance.choice(PIECES)
    for _ in range(chance.choice((0, 0, 0, 1, 1, 2, 3))):
        text += chance.choice(GLUE) + chance.choice(PIECES)
    return text + chance.choice(("", "", "", ".", " ", "!"))


def fuzzed_case(chance):
    """A prediction and ten answers that agree often enough to score between 0 and 1."""
    kinds = [fuzzed_text(chance) for _ in range(chance.choice((1, 1, 2, 3)))]
    answers = [chance.choice(kinds) for _ in range(10)]
    variant = chance.choice((*kinds, *kinds, fuzzed_text(chance)))
    change = chance.choice(
        (str, str, str.upper, str.title, lambda t: f"the {t}", lambda t: f"{t}.")
    )
    return change(variant), answers


@pytest.mark.parametrize(
    ("task", "spelled_out"), [(vqav2, spelled_out_vqav2), (textvqa, spelled_out_textvqa)]
)
def test_fuzzed_pairs_score_as_a_second_reading_of_the_rule(task, spelled_out):
    chance = random.Random(0)
    seen = []
    for _ in range(3000):
        prediction, answers = fuzzed_case(chance)
        expected = spelled_out(prediction, answers)
        assert score(task, prediction, *answers) == pytest.approx(expected), (prediction, answers)
        seen.append(expected)
    # Not vacuous: every outcome of the rule occurs, and often.
    assert {round(value, 1) for value in seen} == {0.0, 0.3, 0.6, 0.9, 1.0}
    assert (
        min(sum(v == 0 for v in seen), sum(v == 1 for v in seen), sum(0 < v < 1 for v in seen))
        > 200
    )


@pytest.mark.parametrize("task", [vqav2, textvqa])
@pytest.mark.parametrize("number", [0, 1, 9, 11])
def test_other_than_ten_answers_are_complained_of(task, number):
    complaint = task.TASK.complaint(question(*["yes"] * number))
    assert f"has {number} answers where the rule takes exactly 10" == complaint
    assert task.TASK.complaint(question(*TEN_YES)) is None
