import re

import pytest

from eval.measures import memory
from runtime.errors import UserError


def test_what_does_not_fit_is_refused_with_both_numbers(monkeypatch):
    monkeypatch.setattr(memory, "_available", lambda: 2.0 * 2**30)
    memory.require_memory(2**30, "9 images", "take fewer")
    sentence = "9 images take 3.0 GiB of memory, and 2.0 GiB are available: take fewer."
    with pytest.raises(UserError, match=re.escape(sentence)):
        memory.require_memory(3 * 2**30, "9 images", "take fewer")


def test_a_limit_of_the_process_counts(monkeypatch):
    monkeypatch.setattr(memory.resource, "getrlimit", lambda kind: (2**20, 2**20))
    assert memory._available() == 2**20
