import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from scipy.stats import norm

from eval.analysis.ablation import caption_label, fit_probe


def clouds(num_images=300, num_classes=3, width=5, spread=1.0):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (num_images,), generator=generator)
    centres = torch.randn(num_classes, width, generator=generator)
    noise = torch.randn(num_images, width, generator=generator)
    return centres[labels] + spread * noise + 7, labels


def test_the_probe_reaches_the_minimum_that_scipy_finds():
    features, labels = clouds()
    probe = fit_probe(features, labels, 3, l2=0.05)
    x = features.double().numpy()
    x = (x - x.mean(0)) / x.std(0)
    y = labels.numpy()

    def objective(flat):
        weight, bias = flat[:15].reshape(5, 3), flat[15:]
        log_probs = log_softmax(x @ weight + bias, axis=1)
        return -log_probs[np.arange(len(y)), y].mean() + 0.025 * (weight**2).sum()

    found = minimize(objective, np.zeros(18), method="L-BFGS-B", options={"ftol": 1e-14})
    ours = objective(np.concatenate([probe.weight.numpy().ravel(), probe.bias.numpy()]))
    assert ours <= found.fun + 1e-8
    assert np.allclose(probe.weight.numpy().ravel(), found.x[:15], atol=1e-3)


def test_two_gaussians_are_told_apart_as_well_as_they_can_be():
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(20_000) % 2
    features = torch.randn(20_000, 1, generator=generator) + 2.0 * labels.unsqueeze(1)
    probe = fit_probe(features[:10_000], labels[:10_000], 2)
    accuracy = (probe.predict(features[10_000:]) == labels[10_000:]).double().mean().item()
    assert accuracy == pytest.approx(norm.cdf(1.0), abs=0.01)  # means 2 apart, Bayes' rule


def test_equal_input_gives_an_equal_probe():
    features, labels = clouds()
    first, second = fit_probe(features, labels, 3), fit_probe(features, labels, 3)
    assert torch.equal(first.weight, second.weight)


def test_a_constant_feature_says_nothing_and_breaks_nothing():
    _, labels = clouds()
    probe = fit_probe(torch.full((300, 4), 0.3), labels, 3)
    majority = labels.bincount().argmax()
    assert (probe.predict(torch.full((5, 4), 0.3)) == majority).all()


@pytest.mark.parametrize(
    ("captions", "label"),
    [
        (["a red square"], 0),
        (["A Blue square."], 1),
        (["a reddish square"], None),
        (["a red square", "it is blue"], None),
        (["a red square", "it is red"], 0),
        ([], None),
    ],
)
def test_a_label_is_the_only_word_that_the_captions_name(captions, label):
    assert caption_label(captions, ["red", "blue"]) == label
