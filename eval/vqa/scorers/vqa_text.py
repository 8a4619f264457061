"""The text clean-up that VQAv2's and TextVQA's official scorers share, oddities included.

Read from `vqaEval.py` (GT-Vision-Lab/VQA) and `m4c_evaluators.py` (facebookresearch/mmf).
"""

import re

# The scorer's own spelling corrections. Four can never apply, since words are lower case by then
# (id've, im ...); "somebody'd" loses its apostrophe, where all others gain one.
_CONTRACTIONS = """
aint=ain't arent=aren't cant=can't couldve=could've couldnt=couldn't couldn'tve=couldn't've
couldnt've=couldn't've didnt=didn't doesnt=doesn't dont=don't hadnt=hadn't hadnt've=hadn't've
hadn'tve=hadn't've hasnt=hasn't havent=haven't hed=he'd hed've=he'd've he'dve=he'd've hes=he's
howd=how'd howll=how'll hows=how's Id've=I'd've I'dve=I'd've Im=I'm Ive=I've isnt=isn't itd=it'd
itd've=it'd've it'dve=it'd've itll=it'll let's=let's maam=ma'am mightnt=mightn't
mightnt've=mightn't've mightn'tve=mightn't've mightve=might've mustnt=mustn't mustve=must've
neednt=needn't notve=not've oclock=o'clock oughtnt=oughtn't ow's'at='ow's'at 'ows'at='ow's'at
'ow'sat='ow's'at shant=shan't shed've=she'd've she'dve=she'd've she's=she's shouldve=should've
shouldnt=shouldn't shouldnt've=shouldn't've shouldn'tve=shouldn't've somebody'd=somebodyd
somebodyd've=somebody'd've somebody'dve=somebody'd've somebodyll=somebody'll somebodys=somebody's
someoned=someone'd someoned've=someone'd've someone'dve=someone'd've someonell=someone'll
someones=someone's somethingd=something'd somethingd've=something'd've something'dve=something'd've
somethingll=something'll thats=that's thered=there'd thered've=there'd've there'dve=there'd've
therere=there're theres=there's theyd=they'd theyd've=they'd've they'dve=they'd've theyll=they'll
theyre=they're theyve=they've twas='twas wasnt=wasn't wed've=we'd've we'dve=we'd've weve=we've
werent=weren't whatll=what'll whatre=what're whats=what's whatve=what've whens=when's whered=where'd
wheres=where's whereve=where've whod=who'd whod've=who'd've who'dve=who'd've wholl=who'll whos=who's
whove=who've whyll=why'll whyre=why're whys=why's wont=won't wouldve=would've wouldnt=wouldn't
wouldnt've=wouldn't've wouldn'tve=wouldn't've yall=y'all yall'll=y'all'll y'allll=y'all'll
yall'd've=y'all'd've y'alld've=y'all'd've y'all'dve=y'all'd've youd=you'd youd've=you'd've
you'dve=you'd've youll=you'll youre=you're youve=you've
"""
CONTRACTIONS: dict[str, str] = dict(pair.split("=") for pair in _CONTRACTIONS.split())
_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NUMBERS = {word: str(value) for value, word in enumerate(_DIGITS)} | {"none": "0"}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

# Meant as "a period that does not stand between digits". `(?!<=\d)` is no look-behind, though: it
# asks that "<=" and a digit do not follow, which is always so before a period. What is left is "a
# period before anything but a digit": "1." loses its period, "3.5" and ".5" keep theirs.
_PERIOD = re.compile(r"(?!<=\d)\.(?!\d)")
# `re.UNICODE` is passed where `sub` takes its count: 32 periods go, the 33rd stays.
_MAX_PERIODS = int(re.UNICODE)
_COMMA_BETWEEN_DIGITS = re.compile(r"\d,\d")


def strip_punctuation(text: str) -> str:
    """Drop or space out punctuation, as the official `processPunctuation` does.

    A mark with a space on either side anywhere in the text goes; else it turns into a space:
    "black-white" has two words, "black - white" and "black- white" too, but "a-b -c" has "ab". A
    comma between two digits makes every mark go: "1,000" is "1000", but "1,000 red/blue" "1000
    redblue".
    """
    drop_all = _COMMA_BETWEEN_DIGITS.search(text) is not None
    result = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if beside_space or drop_all else " ")
    return _PERIOD.sub("", result, count=_MAX_PERIODS)


def unify_words(text: str) -> str:
    """Lower case, numbers to ten as digits, no articles, contractions with their apostrophe."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def leave_one_out(prediction: str, answers: list[str]) -> float:
    """Mean over the annotators of min(1, matches among the others / 3); all texts are cleaned.

    Of ten answers 1, 2, 3 and 4 that match give .3, .6, .9 and 1.
    """
    matches = (sum(a == prediction for a in answers) - (own == prediction) for own in answers)
    return sum(min(1, others / 3) for others in matches) / len(answers)


def ten_answers(answers: tuple[str, ...]) -> str | None:
    """Why the rule of ten annotators cannot be applied, or None."""
    if len(answers) == 10:
        return None
    return f"has {len(answers)} answers where the rule takes exactly 10"
