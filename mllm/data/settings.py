"""Settings of training data: where documents come from, and how tasks are mixed."""

from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat, model_validator

from runtime.settings import Fraction, Settings
from runtime.value_types import FolderOrURL


class TaskProportions(Settings):
    """How often each task comes, relative to the others; 0 leaves it out."""

    question: NonNegativeFloat = 1.0
    """Questions about one image, all of a record's in one document."""
    drawing: NonNegativeFloat = 1.0
    """An image after its caption."""
    conversation: NonNegativeFloat = 0.0
    """Several turns about any number of images."""
    text: NonNegativeFloat = 0.0
    """Plain text, so that the language model keeps its language."""

    @model_validator(mode="after")
    def _some_task(self) -> "TaskProportions":
        if not any(dict(self).values()):
            raise ValueError("all proportions are 0; give one task a proportion above 0")
        return self


class MixtureSettings(Settings):
    """What the model sees, and how much each label counts."""

    renamed: ClassVar = {"shares": "proportions", "question_share": "proportions"}

    proportions: TaskProportions = TaskProportions()
    """Proportions of documents, not of tokens."""
    caption_dropout: Fraction = 0.1
    """Fraction of drawings whose caption is dropped, for guidance (every peer uses 0.1)."""
    several_questions: Literal["shared_prefix", "turns"] = "shared_prefix"
    """How questions about one image share it: as the prefix of all of them, none of which sees
    another, or as the turns of one conversation, which FlashAttention needs."""
    answer_weight: NonNegativeFloat = 1.0
    """Weight of one answer in the loss, divided among its tokens."""
    drawing_weight: NonNegativeFloat = 1.0
    """Weight of one drawing in the loss, divided among its tokens."""
    text_weight: NonNegativeFloat = 1.0
    """Weight of one plain text in the loss, divided among its tokens."""

    @model_validator(mode="after")
    def _some_label_counts(self) -> "MixtureSettings":
        weights = {
            "question": self.answer_weight,
            "drawing": self.drawing_weight,
            "conversation": self.answer_weight + self.drawing_weight,
            "text": self.text_weight,
        }
        if not any(weights[task] for task, part in dict(self.proportions).items() if part):
            raise ValueError("every label would have the weight 0; raise one of the weights")
        return self


class SourceSettings(Settings):
    """One prepared folder of several."""

    data: FolderOrURL
    """Prepared folder."""
    codes: FolderOrURL | None = None
    """Codes of its images, made by the tokenizer inside the model; none for plain text alone."""
    weight: PositiveFloat = 1.0
    """How often it is used, relative to the other sources of the same task."""
