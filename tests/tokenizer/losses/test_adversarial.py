"""The adversarial formulas against closed forms."""

import math

import pytest
import torch

from tokenizer.losses.adversarial import (
    DISCRIMINATOR_LOSSES,
    GENERATOR_LOSSES,
    LeCam,
    ramp,
)
from tokenizer.losses.settings import AdversarialSettings


def log_sigmoid(x):
    return -math.log(1 + math.exp(-x))


def test_hinge_losses_of_known_logits():
    real, fake = torch.tensor([[3.0, 0.5]]), torch.tensor([[-2.0, 0.25]])
    expected = 0.5 * ((0 + 0.5) / 2 + (0 + 1.25) / 2)
    assert DISCRIMINATOR_LOSSES["hinge"](real, fake).item() == pytest.approx(expected)
    assert GENERATOR_LOSSES["hinge"](fake).item() == pytest.approx(0.875)


def test_non_saturating_losses_of_known_logits():
    real, fake = torch.tensor([[3.0]]), torch.tensor([[-2.0]])
    expected = 0.5 * (-log_sigmoid(3.0) - log_sigmoid(2.0))  # log(1 - σ(-2)) = log σ(2)
    found = DISCRIMINATOR_LOSSES["non_saturating"](real, fake).item()
    assert found == pytest.approx(expected, rel=1e-5)
    found = GENERATOR_LOSSES["non_saturating"](fake).item()
    assert found == pytest.approx(-log_sigmoid(-2.0), rel=1e-5)


@pytest.mark.parametrize("name", DISCRIMINATOR_LOSSES)
def test_the_discriminator_raises_real_and_lowers_fake_and_the_generator_raises_fake(name):
    real, fake = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    DISCRIMINATOR_LOSSES[name](real, fake).backward()
    assert (real.grad < 0).all() and (fake.grad > 0).all()
    fake.grad = None
    GENERATOR_LOSSES[name](fake).backward()
    assert (fake.grad < 0).all()


def test_the_ramp_starts_and_grows():
    config = AdversarialSettings(start_step=10, warmup_steps=4)
    assert [ramp(config, step) for step in (0, 9, 10, 11, 12, 13, 14, 99)] == [
        0, 0, 0.25, 0.5, 0.75, 1, 1, 1,
    ]  # fmt: skip
    assert ramp(AdversarialSettings(), 0) == 1


def test_lecam_is_nothing_before_its_first_update_and_follows_the_paper_after():
    lecam = LeCam(decay=0.9)
    real, fake = torch.tensor([[2.0, 0.0]]), torch.tensor([[-1.0, 1.0]])
    assert lecam(real, fake) == 0
    lecam.update(torch.tensor(1.0), torch.tensor(-0.5))  # the first becomes the average
    expected = ((2.5**2 + 0.5**2) + (2.0**2 + 0)) / 2
    assert lecam(real, fake).item() == pytest.approx(expected)
    lecam.update(torch.tensor(3.0), torch.tensor(0.5))
    assert lecam.real.item() == pytest.approx(0.9 * 1 + 0.1 * 3)
    assert lecam.fake.item() == pytest.approx(0.9 * -0.5 + 0.1 * 0.5)
    assert set(lecam.state_dict()) == {"real", "fake", "num_updates"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"augment_probability": 1.5}, r"augment_probability\n.*less than or equal to 1"),
        ({"learning_rate": 0}, r"learning_rate\n.*greater than 0"),
    ],
)
def test_settings_out_of_range_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        AdversarialSettings(**fields)
