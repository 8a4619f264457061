"""Settings of `prepare`."""

from typing import Annotated

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from data_pipelines.sources.spec import check_source
from runtime.settings import Option, Settings
from runtime.value_types import NumWorkers, OutputFolderOrURL

SourceName = Annotated[str, AfterValidator(check_source), Option("SOURCE")]
"""A source by its name, a folder of images, or KIND:PATH."""


class PrepareSettings(Settings):
    """Which sources to validate, and how to write them."""

    renamed = {"test_share": "test_fraction"}

    sources: Annotated[list[SourceName], Field(min_length=1), Option(positional=True)]
    """easy-vqa-train, easy-vqa-test, a folder of images, or KIND:PATH[,key=value...], such as
    llava:chat.json,images=DIR; kinds: folder, llava, parquet, arrow, webdataset, hub, vqav2, gqa,
    textvqa, jsonl (see docs/data.md)."""
    out: OutputFolderOrURL
    """Folder to write, or a URL such as s3://BUCKET/DIR; new, empty, or of an earlier run with the
    same settings."""
    num_workers: Annotated[NumWorkers, Field(gt=0)] | None = None
    """Processes (default: as many as there are cores)."""
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the images to hold out in DIR/test; the rest goes to DIR/train (default: 0)."""
    drop_duplicates: bool = False
    """Reject a record whose image came before (default: only count them)."""
    max_rejects: Annotated[int, Field(ge=0)] | None = None
    """Stop when more records than this are unusable (default: no limit)."""
    shard_size: PositiveInt = 2000
    """Records read for a shard, which holds those of them that pass."""

    @model_validator(mode="after")
    def _refuse_repeated_sources(self) -> "PrepareSettings":
        for name in self.sources:
            if self.sources.count(name) > 1:
                raise ValueError(f"the source {name} is named twice; name each once")
        return self
