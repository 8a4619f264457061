import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from runtime.errors import UserError
from runtime.settings import build_settings
from tokenizer.codebooks.entropy import entropy_loss
from tokenizer.codebooks.settings import CodebookSettings
from tokenizer.codebooks.training import CodebookTraining
from tokenizer.model.codebook import GroupedCodebook

G, C, D = 3, 4, 5
UPDATES = ["ema", "gradient"]


def make(metric="cosine", seed=0, **settings):
    torch.manual_seed(seed)
    codebook = GroupedCodebook(G, C, D, metric)
    return codebook, CodebookTraining("own", codebook, CodebookSettings(**settings), seed)


def batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(4, 10, D, generator=generator)
    return vectors, torch.randint(G, (4, 10), generator=generator)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    settings = {"commitment_weight": 0.5, "codebook_weight": 2.0, "entropy_weight": 0.1}
    codebook, training = make(update="gradient", entropy_temperature=0.3, **settings)
    vectors, groups = batch()
    quantized, losses = training(vectors, groups)
    plain = codebook(vectors, groups)
    entropy = entropy_loss(codebook, plain.inputs.flatten(0, 1), groups.flatten(), 0.3)
    expected = 0.5 * plain.commitment_loss + 2 * plain.codebook_loss + 0.1 * entropy
    assert torch.allclose(losses["loss"], expected)
    assert torch.equal(losses["commitment_loss"], plain.commitment_loss)
    assert torch.equal(losses["entropy_loss"], entropy)
    assert torch.equal(quantized.vectors, plain.vectors)
    assert not losses["entropy_loss"].requires_grad


def test_moving_averages_take_no_gradient_and_no_codebook_loss():
    codebook, training = make(update="ema", entropy_weight=0.1)
    vectors, groups = batch()
    quantized, losses = training(vectors.requires_grad_(), groups)
    (losses["loss"] + quantized.vectors.sum()).backward()
    assert not codebook.codes.requires_grad and codebook.codes.grad is None
    assert vectors.grad.abs().sum() > 0


@pytest.mark.parametrize("update", UPDATES)
def test_the_micro_batches_of_a_step_move_the_codes_like_one_batch(update):
    vectors, groups = batch()
    results = []
    for parts in ([slice(0, 4)], [slice(0, 1), slice(1, 4)]):
        codebook, training = make(update=update, decay=0.5, restart_below=0.6)
        training.start(vectors, groups)
        for part in parts:
            training(vectors[part] + 0.3, groups[part])
        moved = training.after_step()
        results.append((moved, codebook.codes.detach().clone(), training.updater.counts.clone()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert torch.equal(results[0][2], results[1][2])
    assert results[0][0]["batch_own_usage"] > 0


def test_nothing_is_remembered_in_eval_mode_or_of_a_step_that_is_not_taken():
    codebook, training = make(decay=0.5)
    vectors, groups = batch()
    training.eval()
    training(vectors, groups)
    training.train()
    training(vectors * float("nan"), groups)
    training.forget()
    before = codebook.codes.clone()
    training(vectors, groups)
    training.after_step()
    assert torch.isfinite(codebook.codes).all()
    assert not torch.equal(codebook.codes, before)
    with pytest.raises(AssertionError):
        training.after_step()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_first_steps_see_unquantised_vectors_while_the_codes_already_move(metric):
    codebook, training = make(metric, warmup_steps=2, decay=0.5)
    vectors, groups = batch()
    for step in range(4):
        before = codebook.codes.clone()
        quantized, _ = training(vectors, groups)
        is_warm = torch.equal(quantized.vectors, codebook.normalize(vectors))
        assert is_warm == (step < 2)
        if not is_warm:
            expected = codebook.lookup(quantized.codes, groups)
            assert torch.allclose(quantized.vectors, expected, atol=1e-6)
        training.after_step()
        assert not torch.equal(codebook.codes, before)


def test_evaluation_is_quantised_during_the_warm_up_too():
    codebook, training = make(warmup_steps=2)
    vectors, groups = batch()
    quantized, _ = training.eval()(vectors, groups)
    assert torch.equal(quantized.vectors, codebook(vectors, groups).vectors)


@pytest.mark.parametrize("update", UPDATES)
def test_training_goes_on_from_a_saved_state_in_the_same_bits(update):
    def run(codebook, training, steps):
        for step in steps:
            training(*batch(seed=step))
            training.after_step()

    settings = {"update": update, "decay": 0.5, "restart_below": 0.6, "warmup_steps": 3}
    codebook, training = make(**settings)
    run(codebook, training, range(2))
    other_codebook, other = make(seed=0, **settings)
    other_codebook.load_state_dict(codebook.state_dict())
    other.load_state_dict(training.state_dict())
    run(codebook, training, range(2, 8))
    run(other_codebook, other, range(2, 8))
    assert torch.equal(codebook.codes, other_codebook.codes)
    assert torch.equal(training.updater.counts, other.updater.counts)


class DtypesSeen(TorchDispatchMode):
    """The floating types of all that any operation inside reads or gives."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in (*args, result):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self.dtypes.add(value.dtype)
        return result


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("update", UPDATES)
def test_autocast_never_reaches_the_quantiser(metric, update):
    _, training = make(metric, update=update, entropy_weight=0.1, restart_below=0.9)
    vectors, groups = batch()
    inputs = vectors.clone().requires_grad_()
    with DtypesSeen() as inside:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            training.start(vectors, groups)
            quantized, losses = training(inputs, groups)
            training.after_step()
        losses["loss"].backward()
    assert inside.dtypes == {torch.float32}
    assert quantized.vectors.dtype == losses["loss"].dtype == torch.float32
    # The guard: the spy does see what autocast does elsewhere.
    with DtypesSeen() as outside, torch.autocast("cpu", dtype=torch.bfloat16):
        vectors[0] @ vectors[0].T
    assert torch.bfloat16 in outside.dtypes


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("entropy_temperature", 0),
        ("entropy_weight", -1),
        ("codebook_weight", -0.5),
        ("warmup_steps", -1),
        ("decay", 1),
        ("update", "both"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=field) as refusal:
        build_settings(CodebookSettings, {field: value}, "the test")
    assert "\n" not in str(refusal.value)
