"""The one exception that means: the person at the keyboard can fix this."""


class UserError(Exception):
    """Wrong input or settings, told in one sentence that names the thing and the fix.

    The command line prints `semhitok: error: SENTENCE` and exits with 2. Anything else that
    escapes a command is a defect of ours and keeps its traceback.
    """


def one_line(text: object) -> str:
    """A text, or what an error says, as one line that a terminal can show.

    Libraries write errors over several lines, and what they quote of somebody's file may hold
    control characters: blanks of any kind become one space, the rest is written as escapes.
    """
    joined = " ".join(str(text).split())
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in joined)


def says(error: BaseException) -> str:
    """What a library's error says, for a sentence of ours; its kind where it says nothing."""
    return one_line(error)[:300] or type(error).__name__
