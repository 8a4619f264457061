"""A pass over the slot cache is transformers' own forward, for every family of models."""

import pytest
import torch
from scipy.stats import chisquare
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from benchmarks.generate import alternative, plain_model
from benchmarks.generate_model import make_model
from mllm.drawing.choice import choose, guidance_scales
from mllm.drawing.cpu.prepacked import PrepackedLinear
from mllm.drawing.editing import grid_mask, keep_first_rows, keep_semantics, keep_where
from mllm.drawing.engine import DrawingEngine
from mllm.drawing.requests import ImageJob
from mllm.drawing.slots import Prefix, SlotCache
from mllm.drawing.step import LeanStep, OwnStep, is_known
from mllm.model.sampler import Sampler
from runtime.errors import UserError

SIZE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 50, "max_position_embeddings": 256, "head_dim": 8,
    "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": ({}, LeanStep),
    "mistral": ({"sliding_window": None}, LeanStep),
    "mistral-sliding": ({"sliding_window": 9}, LeanStep),
    "qwen2": ({}, LeanStep),
    "qwen2-sliding": (
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}, LeanStep
    ),
    "qwen3": ({}, LeanStep),
    "gemma": ({}, OwnStep),
    "gemma2": ({"sliding_window": 9, "query_pre_attn_scalar": 8}, OwnStep),
    "gemma3_text": ({"sliding_window": 9, "query_pre_attn_scalar": 8}, OwnStep),
}  # fmt: skip


@torch.no_grad()
def make_decoder(family):
    """Of random weights large enough to tell one layer from another."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family.split("-")[0]](**SIZE, **FAMILIES[family][0])
    decoder = AutoModelForCausalLM.from_config(config).eval().get_decoder()
    for name, parameter in decoder.named_parameters():
        parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return decoder


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("own", [False, True])
def test_passes_over_the_cache_equal_one_forward(family, own):
    decoder, kind = make_decoder(family), FAMILIES[family][1]
    assert is_known(decoder) == (kind is LeanStep)
    step = OwnStep(decoder) if own else kind(decoder)
    lengths, more = (5, 14, 8), 12
    rows = [torch.randn(1, length + more, 32) for length in lengths]
    cache = SlotCache(len(rows))
    for row, (inputs, length) in enumerate(zip(rows, lengths, strict=True)):
        output = decoder(inputs_embeds=inputs[:, :length], use_cache=True)
        full = [layer.keys[0] for layer in output.past_key_values.layers]
        if any(keys.shape[1] < length for keys in full):  # a sliding cache has forgotten the first
            output = decoder(inputs_embeds=inputs[:, :length], past_key_values=_plain_cache())
            full = [layer.keys[0] for layer in output.past_key_values.layers]
        values = [layer.values[0] for layer in output.past_key_values.layers]
        cache.insert(row, Prefix(full, values, output.last_hidden_state[0, -1]), more)
    expected = [decoder(inputs_embeds=inputs).last_hidden_state[0] for inputs in rows]
    for number in range(more):
        positions = torch.tensor(lengths) + number
        cache.set_positions(0, positions, cache.num_visible(int(positions.max())))
        embeddings = torch.stack(
            [inputs[0, position] for inputs, position in zip(rows, positions, strict=True)]
        )
        hidden = step(embeddings, positions, cache)
        wanted = torch.stack([e[at] for e, at in zip(expected, positions, strict=True)])
        torch.testing.assert_close(hidden, wanted, atol=2e-5, rtol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", [name for name in FAMILIES if FAMILIES[name][1] is LeanStep])
def test_a_prompt_leaves_what_transformers_own_forward_leaves(family):
    decoder = make_decoder(family)
    for length in (1, 7, 20):  # the last beyond the window of those that slide
        prompt = torch.randn(length, 32)
        expected, mine = OwnStep(decoder).read(prompt), LeanStep(decoder).read(prompt)
        assert len(mine) == len(expected) == length
        for name in ("keys", "values"):
            torch.testing.assert_close(getattr(mine, name), getattr(expected, name))
        torch.testing.assert_close(mine.hidden, expected.hidden, atol=2e-5, rtol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("make_product", [None, PrepackedLinear])
def test_a_remembered_prompt_holds_its_keys_and_values_alone(make_product):
    prefix = LeanStep(make_decoder("qwen2"), make_product).read(torch.randn(7, 32))
    for tensor in (*prefix.keys, *prefix.values):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def _plain_cache():
    from transformers import DynamicCache

    return DynamicCache()


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_greedy_tokens_are_those_of_transformers_own_generate(scale):
    """With guidance too: theirs in two passes, a prefix-constrained function, full logits."""
    model = make_model("quickstart", "flat", 36)
    with torch.no_grad():
        for parameter in (*model.language_model.parameters(), *model.adapter.parameters()):
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    plain, sampler = plain_model(model), Sampler(guidance_scale=scale, temperature=0.0)
    jobs = [ImageJob((5, 6, 7 + number), (8, 9), number) for number in range(3)]
    theirs, _ = alternative(plain, jobs, sampler, 36, model.vocabulary.offset, 60.0)
    ours = dict(DrawingEngine(model, sampler, 3).draw(jobs))
    codes = torch.stack([ours[number] for number in range(3)])
    assert torch.equal(model.vocabulary.token_ids(codes), theirs)
    assert len(codes.unique()) > 10  # not vacuous


@torch.no_grad()
def test_hierarchical_draws_follow_the_flat_softmax_of_the_product(hierarchical_model):
    model = hierarchical_model
    num_semantic, num_pixel = model.vocabulary.num_semantic_codes, model.vocabulary.num_pixel_codes
    engine = DrawingEngine(model, Sampler(guidance_scale=1.0), 256)
    engine.num_positions = 1
    counts = torch.zeros(num_semantic * num_pixel)
    jobs = [ImageJob((5, 6, 7), None, seed) for seed in range(3000)]
    for _, codes in engine.draw(jobs):
        counts[codes[0]] += 1
    hidden = engine.prefix((5, 6, 7)).hidden.unsqueeze(0)
    head = model.image_head
    semantic = head.semantic_scores(hidden).log_softmax(-1)[0]
    pixel = head.pixel_scores(
        hidden.expand(num_semantic, -1), torch.arange(num_semantic), model.image_tokenizer
    ).log_softmax(-1)
    flat = (semantic.unsqueeze(-1) + pixel).flatten().double().softmax(-1)
    enough = flat * 3000 > 5
    assert enough.sum() > 3
    expected = torch.cat([flat[enough], flat[~enough].sum().view(1)]) * 3000
    seen = torch.cat([counts[enough], counts[~enough].sum().view(1)]).double()
    keep = expected > 0
    assert chisquare(seen[keep], expected[keep]).pvalue > 0.01
    uniform = torch.full_like(seen, 3000 / len(seen))
    assert chisquare(seen, uniform).pvalue < 1e-6  # the test can tell


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
        kept = keep_first_rows(whole, 1, 3)
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


def test_a_mask_picture_keeps_the_patches_that_are_white():
    from PIL import Image

    mask = Image.new("L", (16, 16), 255)
    mask.putpixel((9, 2), 0)
    assert grid_mask(mask, 2).tolist() == [True, False, True, True]
    assert grid_mask(mask.resize((2, 2), 0), 2).shape == (4,)
    for size in ((17, 16), (17, 17)):
        with pytest.raises(UserError, match=f"17×{size[1]} pixels: make it a square of 2×2"):
            grid_mask(Image.new("L", size), 2)


def test_schedules_rise_from_the_conditional_model_to_the_whole_scale():
    for schedule in ("linear", "cosine"):
        scales = guidance_scales(Sampler(guidance_scale=5.0, guidance_schedule=schedule), 9)
        assert scales[0] == 1 and scales[-1] == 5 and (scales.diff() > 0).all()
    assert (guidance_scales(Sampler(guidance_scale=5.0), 9) == 5).all()
    assert guidance_scales(Sampler(guidance_scale=5.0, guidance_schedule="cosine"), 9)[4] == 3


def test_the_schedule_is_followed():
    model = make_model("quickstart", "hierarchical", 16)
    job = ImageJob((5, 6), (7, 8, 9), 3)
    images = {
        schedule: drawn(model, job, Sampler(guidance_scale=9.0, guidance_schedule=schedule))
        for schedule in ("constant", "linear", "cosine")
    }
    plain = drawn(model, job, Sampler(guidance_scale=1.0))
    assert len(torch.stack([*images.values(), plain]).unique(dim=0)) == 4
    assert images["linear"][0] == plain[0]  # the scale there is 1


def test_min_p_and_the_cuts_of_each_level():
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, -1)
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(0)).double()
    for min_p, kept in ((0.0, 4), (0.29, 3), (0.31, 2), (0.61, 1), (1.0, 1)):
        assert len(choose(Sampler(min_p=min_p), scores, uniform).unique()) == kept
    both = Sampler(top_k=9, top_p=0.9, min_p=0.1, temperature=0.7)
    assert both.for_pixels() == both
    own = Sampler(top_k=9, pixel_top_k=2, pixel_top_p=0.5, pixel_min_p=0.3, pixel_temperature=2.0)
    pixels = own.for_pixels()
    assert (pixels.top_k, pixels.top_p, pixels.min_p, pixels.temperature) == (2, 0.5, 0.3, 2.0)


@torch.no_grad()
def test_bfloat16_draws(world):
    from tests.mllm.tiny import make_model as make_tiny

    model = make_tiny(world).to(torch.bfloat16)
    codes = drawn(model, ImageJob((5, 6), (7,), 3), Sampler(guidance_scale=3.0))
    assert codes.shape == (4,) and codes.min() >= 0 and codes.max() < 15
