"""Prepared folders of sources, or of records made by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.prepare.run import prepare
from data_pipelines.prepare.settings import PrepareSettings
from data_pipelines.records import Record
from data_pipelines.sources.rows import Found, Rows
from data_pipelines.sources.source import Source


def prepare_sources(sources: str | Path | list[Any], out: Path | str, **settings: Any) -> Path:
    """A prepared folder of one source or several, made in this process."""
    names = [str(name) for name in (sources if isinstance(sources, list) else [sources])]
    settings = {"num_workers": 1} | settings
    found = prepare(PrepareSettings(sources=names, out=str(out), **settings))
    assert found == str(out)
    return Path(found)


def prepare_records(records: Sequence[Record], out: Path, **settings: Any) -> Path:
    """A prepared folder of hand-made records."""
    rows = Rows(len(records), lambda index: Found(records[index]))
    source = Source("hand-made", "CC0-1.0", "a test", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_pipelines.prepare.run.open_source", lambda name: source)
        return prepare_sources("hand-made", out, **settings)
