"""Settings of `semhitok plan`."""

from typing import Annotated, ClassVar

from pydantic import PositiveInt

from runtime.settings import Option, Settings
from runtime.value_types import ConfigFile, NewFile, NumBytes


class PlanSettings(Settings):
    """`semhitok plan`."""

    renamed: ClassVar = {"json": "out"}

    config: ConfigFile
    """Settings of `train mllm`, YAML."""
    overrides: Annotated[list[str], Option("key.sub=value", positional=True)] = []
    """Settings in place of the file's, such as phase=sft."""
    init: ConfigFile | None = None
    """Settings of init-mllm, for a model that is not made yet (default: init_mllm.yaml beside the
    config)."""
    gpus: PositiveInt = 1
    """Number of ranks."""
    gpu_memory: NumBytes = 80 * 10**9
    """Memory of each, such as 80G (default: 80G)."""
    out: NewFile | None = None
    """Also write the plan as JSON."""
