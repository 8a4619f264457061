"""An image depends on its job alone: not on its batch, nor on what else is drawn or when."""

import pytest
import torch

from mllm.drawing.cpu import batch_invariance
from mllm.drawing.cpu import parts as parts_module
from mllm.drawing.cpu.batch_invariance import sizes_that_agree
from mllm.drawing.cpu.parts import make_parts
from mllm.drawing.engine import DrawingEngine
from mllm.drawing.requests import ImageJob
from mllm.model.sampler import Sampler
from mllm.serving.edit import keep_where

N = 16


def make_jobs(count, high=1000):
    """Prompts of 2 to 60 tokens; every fifth image goes on from its first row."""
    generator = torch.Generator().manual_seed(0)
    jobs = []
    for seed in range(count):
        lengths = torch.randint(2, 60, (2,), generator=generator).tolist()
        words = [tuple(torch.randint(4, high, (n,), generator=generator).tolist()) for n in lengths]
        kept = None
        if seed % 5 == 4:
            codes = torch.randint(0, 1024, (N,), generator=generator)
            kept = keep_where(codes, torch.arange(16) < 4 * (1 + seed % 3), 8)
        jobs.append(ImageJob(words[0], words[1], seed, 0, kept))
    return jobs


def draw_all(model, jobs, batch_size, sampler):
    engine = DrawingEngine(model, sampler, batch_size)
    drawn = list(engine.draw(iter(jobs)))
    assert sorted(number for number, _ in drawn) == list(range(len(jobs)))
    return torch.stack([codes for _, codes in sorted(drawn, key=lambda pair: pair[0])])


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_an_image_is_the_same_alone_and_in_batches_of_2_7_and_32(small, scale):
    jobs, sampler = make_jobs(33), Sampler(guidance_scale=scale, temperature=1.2)
    together = draw_all(small, jobs, 32, sampler)
    for batch_size in (2, 7):
        assert torch.equal(draw_all(small, jobs, batch_size, sampler), together)
    for number in range(0, 33, 5):
        assert torch.equal(draw_all(small, [jobs[number]], 1, sampler)[0], together[number])
    assert len(together.unique(dim=0)) == 33  # not vacuous


@pytest.mark.slow
def test_hundreds_of_images_are_the_same_in_any_batch(small):
    jobs, sampler = make_jobs(300), Sampler(guidance_scale=2.0)
    together = draw_all(small, jobs, 32, sampler)
    backwards = draw_all(small, jobs[::-1], 7, sampler).flip(0)
    assert torch.equal(backwards, together)
    for number in range(0, 300, 6):
        assert torch.equal(draw_all(small, [jobs[number]], 1, sampler)[0], together[number])


@torch.no_grad()
def test_the_states_are_equal_bit_by_bit_whatever_shares_the_pass(small):
    """Stronger than equal codes, which hide what changes in the last bit."""
    parts = make_parts(small)
    sizes = batch_invariance.agreeing_sizes(small, parts.step, parts.head, parts.adapter)
    probe = batch_invariance.make_probe(small, parts.step, parts.head, parts.adapter)
    states = torch.randn(64, 128, generator=torch.Generator().manual_seed(3))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(4))
    smallest = [torch.cat(p) for p in zip(*map(probe, states.split(sizes[0])), strict=True)]
    for size in sizes:
        results = [probe(part) for part in states[order].split(size)]
        if len(states) % size:
            results = results[:-1]
        for level, expected in enumerate(smallest):
            mixed = torch.cat([result[level] for result in results])
            assert torch.equal(mixed, expected[order][: len(mixed)])


def test_where_no_sizes_agree_images_go_one_by_one(small, monkeypatch):
    jobs, sampler = make_jobs(6), Sampler()
    expected = draw_all(small, jobs, 1, sampler)
    monkeypatch.setattr(parts_module, "agreeing_sizes", lambda *_: (1,))
    engine = DrawingEngine(small, sampler, 6)
    assert engine.run.groups.slots_each == 1
    alone = draw_all(small, jobs, 1, sampler)
    assert torch.equal(draw_all(small, jobs, 6, sampler), alone)
    assert (alone == expected).float().mean() > 0.9  # another kernel, the same distribution
    monkeypatch.undo()


def test_sizes_that_disagree_are_found_out():
    def honest(rows):
        return [rows * 2]

    def by_number(rows):
        return [rows * (1 + (len(rows) >= 24) * 2**-22)]

    def from_sixteen(rows):  # as with AVX-512
        return [rows * (1 + (len(rows) >= 16) * 2**-22)]

    def by_place(rows):
        return [rows * (1 + (torch.arange(len(rows)) == 1).unsqueeze(1) * 2**-22)]

    assert sizes_that_agree(8, honest) == batch_invariance.SIZES
    assert sizes_that_agree(8, by_number) == (2, 4, 8, 12, 16)
    assert sizes_that_agree(8, from_sixteen) == (16, 24, 32, 48, 64)
    assert sizes_that_agree(8, by_place) == (1,)
