"""What is kept of an image stays, and the rest is drawn."""

import torch

from mllm.drawing.engine import DrawingEngine
from mllm.drawing.requests import ImageJob
from mllm.model.sampler import Sampler
from mllm.serving.edit import keep_semantics, keep_where


def drawn(model, job, sampler):
    return next(iter(DrawingEngine(model, sampler, 1).draw([job])))[1]


def test_what_is_kept_stays_and_the_rest_is_drawn(model):
    sampler, num_pixel = Sampler(guidance_scale=2.0, temperature=2.0), 3
    first = drawn(model, ImageJob((5, 6), (7,), 1), sampler)
    mask = torch.tensor([False, True, False, True])
    results = [
        drawn(model, ImageJob((5, 6), (7,), s, 0, keep_where(first, mask, num_pixel)), sampler)
        for s in range(20)
    ]
    assert all(torch.equal(codes[mask], first[mask]) for codes in results)
    assert len(torch.stack(results)[:, ~mask].unique(dim=0)) > 3
    everything = keep_where(first, torch.ones(4, dtype=torch.bool), num_pixel)
    assert torch.equal(drawn(model, ImageJob((5, 6), (7,), 9, 0, everything), sampler), first)


def test_an_image_goes_on_from_its_first_rows_as_it_went_before(model):
    sampler = Sampler(guidance_scale=2.0)
    for seed in range(8):
        whole = drawn(model, ImageJob((5, 6), (7,), seed), sampler)
        kept = keep_where(whole, torch.arange(4) < 2, 3)
        assert torch.equal(drawn(model, ImageJob((5, 6), (7,), seed, 0, kept), sampler), whole)


def test_variations_keep_every_semantic_code(model):
    sampler = Sampler(guidance_scale=2.0, temperature=2.0)
    first = drawn(model, ImageJob((5, 6), (7,), 1), sampler)
    kept = keep_semantics(first, 3)
    results = torch.stack(
        [drawn(model, ImageJob((5, 6), (7,), s, 0, kept), sampler) for s in range(12)]
    )
    assert (results // 3 == first // 3).all()
    assert len(results.unique(dim=0)) > 3
    # Drawn with the same noise, the pixel codes are those of the image itself.
    assert torch.equal(results[1], first)
