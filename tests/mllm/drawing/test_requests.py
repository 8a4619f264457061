"""Jobs that a model cannot draw are refused in one sentence."""

import pytest
import torch

from mllm.drawing.engine import DrawingEngine
from mllm.drawing.requests import ImageJob
from mllm.model.sampler import Sampler
from runtime.errors import UserError


def test_kept_codes_that_are_none_are_one_sentence(model):
    engine = DrawingEngine(model, Sampler(guidance_scale=1.0), 1)
    none = torch.full((4, 2), -1)
    for kept, message in (
        (none[:3], r"shape \(3, 2\): give two for each of 4 positions"),
        (none + torch.tensor([7, 0]), r"must lie in \[0, 5\) for semantic"),
        (none + torch.tensor([0, 4]), r"\[0, 3\) for pixel codes"),
        (none + torch.tensor([0, 1]), "means nothing without"),
    ):
        with pytest.raises(UserError, match=message):
            list(engine.draw([ImageJob((5, 6), None, 0, 0, kept)]))


@pytest.mark.parametrize("prompt, negative, scale", [((), None, 1.0), ((5, 6), (), 2.0)])
def test_a_prompt_without_tokens_is_one_sentence(model, prompt, negative, scale):
    engine = DrawingEngine(model, Sampler(guidance_scale=scale), 1)
    with pytest.raises(UserError, match="without tokens"):
        list(engine.draw([ImageJob(prompt, negative, 0)]))
