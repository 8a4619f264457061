"""Settings of the commands that draw, answer, chat and serve; the command line imports them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from mllm.model.sampler import Sampler
from runtime.settings import BatchSize, Option, Settings
from runtime.value_types import (
    ExistingFile,
    ModelFolder,
    Names,
    NewFile,
    OutputFolder,
    PromptsFile,
    Text,
)

ImageSeed = Annotated[int, Field(ge=0, lt=2**63)]


class EditSettings(Settings):
    """What stays of an image."""

    image: ExistingFile | None = None
    """The image to draw anew in part."""
    keep_mask: ExistingFile | None = None
    """An image of the same size, white where the other is kept."""
    keep_rows: PositiveInt | None = None
    """Keep the first rows of patches, this many, and continue from them."""
    keep: Literal["semantics"] | None = None
    """Keep every semantic code, and draw the pixel codes anew."""
    paint_over: bool = False
    """Hide what is drawn anew from the codes that are kept, which have seen all of the image."""

    @model_validator(mode="after")
    def _check(self) -> "EditSettings":
        ways = [self.keep_mask, self.keep_rows, self.keep]
        num_ways = sum(way is not None for way in ways)
        if self.image is None and (num_ways or self.paint_over):
            raise ValueError("Nothing to keep from: give the --image that is to be edited.")
        if self.image is not None and num_ways != 1:
            raise ValueError(
                "An --image needs one of --keep-mask FILE, --keep-rows N and --keep semantics."
            )
        return self


class GenerateSettings(Settings):
    """What to draw, and how."""

    model: ModelFolder
    """Folder of the language model."""
    prompt: Annotated[list[Text], Option(one_each=True)] = []
    """What to draw; may be given several times."""
    prompts: PromptsFile | None = None
    """Text with one prompt a line, .jsonl or .parquet (prompt, negative_prompt, seed, id), a folder
    of `semhitok prepare`, whose captions are drawn, or - for standard input."""
    max_prompts: PositiveInt | None = None
    """Prompts to take, the first ones (default: all)."""
    negative_prompt: Text | None = None
    """What guidance leads away from (default: nothing in particular)."""
    out: OutputFolder
    """Folder to write."""
    num_images: Annotated[int, Field(gt=0, le=1_000_000)] = 1
    """Drawings of each prompt."""
    seed: ImageSeed = 0
    """The same seed draws the same images."""
    batch_size: BatchSize = 16
    """Images drawn at once."""
    compile: bool = False
    """Compile the drawing loop: worthwhile for long lists, most with small models; on a CPU it
    takes a C++ compiler and 20 seconds at the start, more with a large model."""
    overwrite: bool = False
    """Draw again what the folder holds of other prompts, settings or models."""
    edit: EditSettings = EditSettings()
    """Editing."""
    sampler: Sampler = Sampler()
    """Sampling (default: the model's own settings)."""

    @model_validator(mode="after")
    def _check(self) -> "GenerateSettings":
        if self.prompt and self.prompts is not None:
            raise ValueError("Give --prompt or --prompts, not both.")
        if not self.prompt and self.prompts is None and self.edit.image is None:
            raise ValueError("Nothing to draw: give --prompt, --prompts, or an --image to edit.")
        return self


class AskSettings(Settings):
    """What to ask about which images."""

    model: ModelFolder
    """Folder of the language model."""
    image: list[ExistingFile] = []
    """What to look at; every question is asked about every image."""
    together: bool = False
    """Show all images at once, for questions about several."""
    question: list[Text] = []
    """What to answer."""
    questions: ExistingFile | None = None
    """JSONL with image (a file) or images, question and, if wanted, options and id."""
    options: Names | None = None
    """Choose the likeliest of these instead of writing an answer."""
    out: NewFile | None = None
    """Write the answers as JSONL, after those that are there already."""
    max_new_tokens: PositiveInt = 16
    """Longest answer, in tokens."""
    batch_size: BatchSize = 16
    """Questions at once."""

    @model_validator(mode="after")
    def _check(self) -> "AskSettings":
        if self.questions is not None and (self.image or self.question):
            raise ValueError(
                "--questions has its own questions and images: leave --question and --image away."
            )
        if self.questions is None and not (self.image and self.question):
            raise ValueError("Nothing to answer: give --image and --question, or --questions FILE.")
        if self.options is not None and len(self.options) < 2:
            raise ValueError("--options has only one answer to choose from: give two or more.")
        return self


class ChatSettings(Settings):
    """A conversation in the terminal."""

    model: ModelFolder
    """Folder of the language model."""
    out: OutputFolder = Path("runs/chat")
    """Folder for drawings."""
    history: bool = True
    """Whether the model sees the conversation so far, or only the question and the last images; a
    model trained on single questions wants --no-history (default: it does)."""
    max_new_tokens: PositiveInt = 256
    """Longest answer, in tokens."""
    seed: ImageSeed = 0
    """Of the first drawing; the others take the numbers after it."""
    sampler: Sampler = Sampler()
    """Sampling (default: the model's own settings)."""


class ServeSettings(Settings):
    """The page in the browser."""

    model: ModelFolder
    """Folder of the language model."""
    host: str = "127.0.0.1"
    """Where to listen; the page has no password (default: this machine alone)."""
    port: Annotated[int, Field(ge=0, le=65535)] = 7860
    """Of the page; 0 takes a free one."""
