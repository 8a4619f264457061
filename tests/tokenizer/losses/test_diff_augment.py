"""Differentiable augmentation: what it changes, what it leaves, and that gradients pass."""

import torch

from tokenizer.losses.diff_augment import NUM_CHOICES, diff_augment


def images(count=4):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def choices(count=4, seed=1):
    return torch.rand(count, NUM_CHOICES, generator=torch.Generator().manual_seed(seed))


def only(which, count=4, seed=1):
    """Choices that switch on one of colour (0), place (1) and hole (2) at probability one half."""
    drawn = choices(count, seed)
    drawn[:, :3] = 0.9
    drawn[:, which] = 0.1
    return drawn


def test_probability_nought_changes_nothing_and_one_changes_every_image():
    before = images()
    assert torch.equal(diff_augment(before, choices(), 0.0), before)
    after = diff_augment(before, choices(), 1.0)
    assert all(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_an_image_is_changed_alike_whatever_lies_beside_it():
    whole = diff_augment(images(), choices(), 0.5)
    parts = [diff_augment(images()[i : i + 1], choices()[i : i + 1], 0.5) for i in range(4)]
    assert torch.equal(whole, torch.cat(parts))


def test_a_shift_moves_pixels_by_at_most_an_eighth_and_fills_with_zero():
    before = torch.arange(1.0, 257.0).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    for seed in range(8):
        after = diff_augment(before, only(1, 1, seed), 0.5)[0, 0]
        rows, columns = after.nonzero(as_tuple=True)
        sources = after[rows, columns].long() - 1
        moves = {
            (r, c)
            for r, c in zip(
                (sources // 16 - rows).tolist(), (sources % 16 - columns).tolist(), strict=True
            )
        }
        assert len(moves) == 1
        assert all(abs(offset) <= 2 for offset in moves.pop())


def test_a_hole_is_at_most_half_of_each_side():
    before = torch.ones(8, 3, 16, 16)
    after = diff_augment(before, only(2, 8), 0.5)
    holes = (after == 0).all(1)
    assert holes.flatten(1).sum(1).min() > 0 and holes.flatten(1).sum(1).max() <= 64
    assert set(after.unique().tolist()) == {0.0, 1.0}


def test_colour_keeps_the_places_of_edges():
    before = torch.full((1, 3, 16, 16), -0.5)
    before[..., 8:] = 0.5
    after = diff_augment(before, only(0, 1), 0.5)
    assert not torch.allclose(after, before)
    steps = after.diff(dim=-1).abs().sum((0, 1, 2))
    assert steps[7] > 0 and steps.sum() == steps[7]


def test_gradients_pass():
    before = images().requires_grad_()
    diff_augment(before, choices(), 1.0).square().sum().backward()
    assert before.grad.abs().sum((1, 2, 3)).min() > 0
