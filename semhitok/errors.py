"""The one exception that means: the person at the keyboard can mend this."""


class UserError(Exception):
    """Wrong input or settings, told in one sentence that names the thing and the mend.

    The command line prints `semhitok: error: SENTENCE` and exits with 2. Anything else that
    escapes a command is a defect of ours and keeps its traceback.
    """
