import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

from runtime import memory
from runtime.errors import UserError


def test_the_least_of_all_limits_counts(tmp_path, monkeypatch):
    left, own = SimpleNamespace(available=5000), SimpleNamespace(vms=300, data=100)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: left)
    monkeypatch.setattr(memory.psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: own))
    monkeypatch.setattr(memory, "_CGROUPS", ())
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, 0))
    assert memory.available_bytes() == 5000
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "used").write_text("100\n")
    files = (str(tmp_path / "max"), str(tmp_path / "used"))
    monkeypatch.setattr(memory, "_CGROUPS", (files,))
    assert memory.available_bytes() == 5000
    (tmp_path / "max").write_text("1000\n")
    assert memory.available_bytes() == 900
    limits = {resource.RLIMIT_AS: 700, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits[kind], 0))
    assert memory.available_bytes() == 400


def test_both_numbers_are_said(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 2_000_000_000)
    memory.require_memory(1e9, "a batch", "lower it")
    with pytest.raises(
        UserError, match=r"a batch would take about 30\.0 GB .* 2\.0 GB are .*lower"
    ):
        memory.require_memory(3e10, "a batch", "lower it")


def test_this_machine_has_some_and_a_limit_is_seen():
    assert memory.available_bytes() > 10_000_000
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "from runtime.memory import available_bytes; print(available_bytes())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(shown.stdout) < 2**30


@pytest.mark.parametrize(
    ("error", "is_told"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("shapes differ"), False),
        (UserError("no such file"), False),
    ],
    ids=str,
)
def test_failed_allocations_are_told_from_other_errors(error, is_told):
    expected = UserError if is_told else type(error)
    with pytest.raises(expected) as told, memory.memory_errors("lower the batch"):
        raise error
    assert ("too little memory" in str(told.value)) == is_told
