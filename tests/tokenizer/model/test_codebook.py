import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tokenizer.model import codebook as codebook_module
from tokenizer.model.codebook import GroupedCodebook

G, C, D, NUM_VECTORS = 5, 7, 6, 60
METRICS = ["cosine", "euclidean"]


@pytest.fixture(params=METRICS)
def codebook(request):
    torch.manual_seed(0)
    codebook = GroupedCodebook(G, C, D, request.param)
    # Unequal norms: a look-up by the wrong metric, or one that forgets |c|², gives other codes.
    codebook.codes.data.mul_(torch.rand(G, C, 1) * 2 + 0.2)
    return codebook


@pytest.fixture
def vectors():
    return torch.randn(NUM_VECTORS, D, generator=torch.Generator().manual_seed(1)) * 1.5


@pytest.fixture
def groups():
    return torch.randint(G, (NUM_VECTORS,), generator=torch.Generator().manual_seed(2))


def brute_force(codebook, vectors, groups):
    """The nearest code of each vector, one distance at a time in float64."""
    chosen = []
    for vector, group in zip(vectors.double(), groups, strict=True):
        table = codebook.codes[group].double()
        if codebook.metric == "cosine":
            distances = [1 - F.cosine_similarity(vector, code, dim=0) for code in table]
        else:
            distances = [(vector - code).square().sum() for code in table]
        chosen.append(int(torch.stack(distances).argmin()))
    return torch.tensor(chosen)


def test_nearest_code_of_the_own_group_equals_brute_force(codebook, vectors, groups):
    codes = codebook.nearest(codebook.normalize(vectors), groups)
    assert torch.equal(codes, brute_force(codebook, vectors, groups))
    assert len(codes.unique()) > 1


@pytest.mark.parametrize("metric", METRICS)
def test_nearest_code_without_groups_equals_brute_force(vectors, metric):
    codebook = GroupedCodebook(1, 12, D, metric)
    codebook.codes.data.mul_(torch.rand(1, 12, 1) + 0.5)
    codes = codebook.nearest(codebook.normalize(vectors))
    assert torch.equal(codes, brute_force(codebook, vectors, torch.zeros(NUM_VECTORS).long()))


class LargestArray(TorchDispatchMode):
    """Numbers in the largest tensor that any operation inside gives."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.parametrize("limit", [1, 50, 333])  # numbers: less than one vector needs, and more
def test_looking_up_in_chunks_changes_no_code(codebook, vectors, groups, limit, monkeypatch):
    plain = GroupedCodebook(1, 12, D, codebook.metric)
    whole = plain.nearest(plain.normalize(vectors))
    monkeypatch.setattr(codebook_module, "MAX_SCORES", limit)
    codes = codebook.nearest(codebook.normalize(vectors), groups)
    assert torch.equal(codes, brute_force(codebook, vectors, groups))
    assert torch.equal(plain.nearest(plain.normalize(vectors)), whole)


@pytest.mark.parametrize("metric", METRICS)
def test_a_look_up_holds_k_and_m_scores_for_a_patch_and_never_more_than_its_limit(
    metric, monkeypatch
):
    num_vectors, num_semantic, num_pixel = 512, 64, 16
    semantic = GroupedCodebook(1, num_semantic, D, metric)
    pixel = GroupedCodebook(num_semantic, num_pixel, D, metric)
    vectors = semantic.normalize(torch.randn(num_vectors, D))

    def largest(look_up):
        with LargestArray() as array:
            codes = look_up()
        return codes, array.numbers

    semantic_codes, numbers = largest(lambda: semantic.nearest(vectors))
    assert numbers == num_vectors * num_semantic
    _, numbers = largest(lambda: pixel.nearest(vectors, semantic_codes))
    assert numbers == num_vectors * num_pixel * D < num_vectors * num_semantic * num_pixel
    monkeypatch.setattr(codebook_module, "MAX_SCORES", 8000)
    assert largest(lambda: semantic.nearest(vectors))[1] <= 8000
    assert largest(lambda: pixel.nearest(vectors, semantic_codes))[1] <= 8000


def test_the_metrics_differ_where_norms_do(codebook, vectors, groups):
    other = GroupedCodebook(G, C, D, "euclidean" if codebook.metric == "cosine" else "cosine")
    other.codes.data.copy_(codebook.codes)
    assert not torch.equal(
        codebook.nearest(codebook.normalize(vectors), groups),
        other.nearest(other.normalize(vectors), groups),
    )


def test_quantised_vectors_are_the_looked_up_codes(codebook, vectors, groups):
    quantized = codebook(vectors.view(4, 15, D), groups.view(4, 15))
    expected = codebook.lookup(quantized.codes, groups.view(4, 15))
    assert quantized.codes.shape == (4, 15)
    assert torch.allclose(quantized.vectors, expected, atol=1e-6)


def test_codes_alone_are_those_of_the_whole_look_up(codebook, vectors, groups):
    batch, own = vectors.view(2, -1, vectors.shape[-1]), groups.view(2, -1)
    assert torch.equal(codebook.assign(batch, own), codebook(batch, own).codes)


def test_a_code_vector_comes_from_its_own_group(codebook, vectors, groups):
    quantized = codebook(vectors, groups)
    table = codebook.normalize(codebook.codes)
    distances = (quantized.vectors[:, None, None] - table).abs().amax(-1)  # (n, G, C)
    home = distances.flatten(1).argmin(1) // C
    assert torch.equal(home, groups)


def test_the_straight_through_gradient_is_the_identity_on_the_normalised_input(
    codebook, vectors, groups
):
    gradient = torch.randn(NUM_VECTORS, D)
    inputs = vectors.clone().requires_grad_()
    codebook(inputs, groups).vectors.backward(gradient)
    reference = vectors.clone().requires_grad_()
    codebook.normalize(reference).backward(gradient)
    assert torch.equal(inputs.grad, reference.grad)
    if codebook.metric == "euclidean":
        assert torch.equal(inputs.grad, gradient)


def test_the_two_losses_move_one_side_each(codebook, vectors, groups):
    codebook.codes.requires_grad_()
    inputs = vectors.clone().requires_grad_()
    quantized = codebook(inputs, groups)
    assert torch.equal(quantized.commitment_loss, quantized.codebook_loss)
    quantized.commitment_loss.backward(retain_graph=True)
    assert codebook.codes.grad is None
    assert inputs.grad.abs().sum() > 0
    inputs.grad = None
    quantized.codebook_loss.backward()
    assert inputs.grad is None
    assert codebook.codes.grad.abs().sum() > 0


def test_a_codes_gradient_touches_only_the_sub_codebooks_in_use(codebook, vectors):
    codebook.codes.requires_grad_()
    codebook(vectors, torch.full((NUM_VECTORS,), 2)).codebook_loss.backward()
    touched = codebook.codes.grad.abs().sum((1, 2)) > 0
    assert touched.tolist() == [False, False, True, False, False]


def test_half_precision_autocast_changes_nothing(codebook, vectors, groups):
    plain = codebook(vectors, groups)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = codebook(vectors, groups)
        codes = codebook.nearest(codebook.normalize(vectors), groups)
    assert cast.vectors.dtype == torch.float32
    assert torch.equal(cast.vectors, plain.vectors)
    assert torch.equal(cast.codes, plain.codes)
    assert torch.equal(codes, plain.codes)
    assert torch.equal(cast.commitment_loss, plain.commitment_loss)


def test_half_precision_inputs_are_compared_in_float32(codebook, vectors, groups):
    quantized = codebook(vectors.bfloat16(), groups)
    assert quantized.vectors.dtype == torch.float32
    assert torch.equal(quantized.codes, codebook(vectors.bfloat16().float(), groups).codes)
