"""Which of several accepted answers stands for all of them: in training and in evaluation alike."""

import unicodedata
from collections import Counter
from collections.abc import Sequence


def most_frequent_answer(answers: Sequence[str]) -> str:
    """The answer that most annotators gave, in its first spelling; among equals the first.

    Case, outer space and Unicode form make no difference: of "no", "Yes" and "yes" it is "Yes".

    Args:
        answers: at least one.
    """
    forms = [comparable(answer) for answer in answers]
    return answers[forms.index(Counter(forms).most_common(1)[0][0])]


def comparable(answer: str) -> str:
    """A text as answers are compared: lower case, without outer space, in one Unicode form."""
    return unicodedata.normalize("NFC", answer).lower().strip()
