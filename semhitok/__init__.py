"""The command line of SemHiTok and the plumbing that every run shares."""

__version__ = "0.1.0"
