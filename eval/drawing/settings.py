"""Settings of `semhitok eval generation`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from eval.measures.settings import SetDistanceSettings
from mllm.model.sampler import Sampler
from runtime.settings import BatchSize, Seed
from runtime.value_types import ExistingFolder, ExistingPath, FolderName, ModelFolder, OutputFolder

EASY_VQA: Literal["easy-vqa"] = "easy-vqa"
DrawingTask = Literal["easy-vqa", "geneval", "dpg", "mjhq", "wise", "t2i-compbench", "geneval2"]


class GenerationSettings(SetDistanceSettings):
    """Which prompts are drawn, and what scores the drawings; saved beside the results."""

    model: ModelFolder | None = None
    """The language model."""
    task: DrawingTask = EASY_VQA
    """Easy-vqa, with a rule of its own, or a benchmark, drawn into its own layout."""
    prompts: ExistingPath | None = None
    """The benchmark's own prompt file."""
    images: ExistingFolder | None = None
    """Score these drawings, in the benchmark's layout, and draw none."""
    seeds: Annotated[int, Field(gt=0, le=1000)] | None = None
    """Drawings of each prompt (default: the benchmark's number; of easy-vqa 4)."""
    seed: Seed = 0
    """Seed of a benchmark's first drawing; the others count on from it."""
    clip: FolderName | None = None
    """CLIPScore by this CLIP, hub name or folder."""
    detector: FolderName | None = None
    """Score geneval by this Mask2Former, or `default`; not the official detector."""
    judge: FolderName | None = None
    """Score dpg or geneval2 by this vision-language model, hub name or folder."""
    reference: ExistingFolder | None = None
    """Real images that --network measures the drawings against."""
    out: OutputFolder
    """Folder to write."""
    batch_size: BatchSize = 24
    """Images drawn at once."""
    sampler: Sampler = Sampler()
    """Sampling (default: the model's generation config)."""

    @model_validator(mode="after")
    def _whose_drawings(self) -> "GenerationSettings":
        if self.task == EASY_VQA:
            foreign = ("prompts", "images", "clip", "detector", "judge", "reference", "network")
            if given := [f"--{name}" for name in foreign if getattr(self, name)]:
                raise ValueError(
                    f"the task {EASY_VQA} has prompts and a rule of its own, without "
                    f"{', '.join(given)}: leave that away, or name another --task"
                )
            if self.model is None:
                raise ValueError(f"the task {EASY_VQA} draws: give --model")
        elif self.prompts is None:
            raise ValueError(f"the task {self.task} needs the benchmark's file: give --prompts")
        elif (self.model is None) == (self.images is None):
            raise ValueError("give either --model to draw, or --images to score drawings")
        return self

    @model_validator(mode="after")
    def _scores_of_the_task(self) -> "GenerationSettings":
        if self.detector and self.task != "geneval":
            raise ValueError(f"a detector judges geneval alone, not {self.task}")
        if self.detector and self.clip is None:
            raise ValueError("GenEval's colours need a CLIP: give --clip, officially ViT-L/14")
        if self.judge and self.task not in ("dpg", "geneval2"):
            raise ValueError(f"a judge answers questions of dpg and geneval2, not of {self.task}")
        if self.network and self.reference is None:
            raise ValueError("a set distance needs real images: give --reference")
        if self.reference is not None and not self.network:
            raise ValueError("real images are for a set distance: name its --network")
        return self
