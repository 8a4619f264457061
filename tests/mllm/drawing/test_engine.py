import pytest
import torch
from scipy.stats import chisquare

from mllm.drawing import choice
from mllm.drawing.choice import choose, noise
from mllm.model.heads import FlatHead
from mllm.model.sampler import Sampler
from tests.mllm.tiny import NUM_PIXEL, NUM_POSITIONS

PROMPTS = ["a red bar", "a blue box", "", "a very long prompt about a green box and a red bar"]
PLAIN = Sampler(guidance_scale=1.0)
HOSTILE = [
    Sampler(guidance_scale=1.0, temperature=5.0),
    Sampler(guidance_scale=3.0, temperature=5.0, top_k=1),
    Sampler(guidance_scale=20.0, temperature=1e-4, top_p=1e-9),
    Sampler(guidance_scale=0.0, temperature=0.0),
    Sampler(guidance_scale=-4.0, temperature=1.0, top_k=10_000, top_p=1.0),
    Sampler(guidance_scale=1.0, temperature=1e-40),
    Sampler(guidance_scale=1.0, temperature=1e-320, top_p=0.5, min_p=0.1),
    Sampler(guidance_scale=3.4e38, temperature=1.0),
    Sampler(guidance_scale=3.4e38, temperature=0.1, top_k=2, top_p=0.9),
]


def draw(model, processor, prompts, seeds, sampler):
    inputs = processor.drawings(prompts)
    return model.generate(**inputs, generation_mode="image", seeds=seeds, sampler=sampler)


def cacheless(model, processor, prompt, seed, sampler):
    """Draw with a full forward pass for each token and each guidance branch."""
    chat, head = processor.chat, model.image_head
    prefixes = [chat.drawing(prompt), chat.drawing("")]
    uniform = noise([seed], NUM_POSITIONS)
    tokens: list[int] = []

    def guide(function):
        scores = [function(model(torch.tensor([p + tokens])).last_hidden_state[:, -1])
                  for p in prefixes]  # fmt: skip
        return scores[1] + sampler.guidance_scale * (scores[0] - scores[1])

    for step in range(NUM_POSITIONS):
        if isinstance(head, FlatHead) and sampler.temperature == 0:
            semantic = guide(lambda hidden: head.rows(hidden)).argmax(-1) // NUM_PIXEL
        else:
            semantic = choose(sampler, guide(head.semantic_scores), uniform[:, step, 0])

        def pixel_scores(hidden, semantic=semantic):
            return head.pixel_scores(hidden, semantic, model.image_tokenizer)

        pixel = choose(sampler, guide(pixel_scores), uniform[:, step, 1])
        tokens.append(model.vocabulary.offset + int(semantic) * NUM_PIXEL + int(pixel))
    return tokens


@pytest.mark.parametrize("sampler", HOSTILE)
def test_every_prompt_gets_exactly_n_image_tokens(model, processor, sampler):
    token_ids = draw(model, processor, PROMPTS, [0, 1, 2, 3], sampler)
    assert token_ids.shape == (4, NUM_POSITIONS)
    assert token_ids.min() >= model.vocabulary.offset
    assert token_ids.max() < model.vocabulary.size
    assert model.decode_image_tokens(token_ids).shape == (4, 3, 16, 16)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_same_seed_draws_the_same_image_in_any_company(model, processor, scale):
    sampler = Sampler(guidance_scale=scale)
    together = draw(model, processor, PROMPTS, [5, 6, 7, 8], sampler)
    backwards = draw(model, processor, PROMPTS[::-1], [8, 7, 6, 5], sampler)
    assert torch.equal(backwards.flip(0), together)
    for number, prompt in enumerate(PROMPTS):
        alone = draw(model, processor, [prompt], [5 + number], sampler)
        assert torch.equal(alone[0], together[number])
    others = torch.cat([draw(model, processor, PROMPTS, [s] * 4, sampler) for s in range(50, 58)])
    assert len(others.unique(dim=0)) > 16  # not vacuous: seeds and prompts do matter


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_cached_loop_draws_what_full_passes_draw(model, processor, scale, temperature):
    sampler = Sampler(guidance_scale=scale, temperature=temperature)
    cached = draw(model, processor, PROMPTS, [0, 1, 2, 3], sampler)
    for number, prompt in enumerate(PROMPTS):
        expected = cacheless(model, processor, prompt, number, sampler)
        assert cached[number].tolist() == expected


@torch.no_grad()
def test_temperature_zero_takes_the_best_code(model, processor):
    greedy = Sampler(guidance_scale=1.0, temperature=0.0)
    token_ids = draw(model, processor, PROMPTS[:1], [0], greedy)
    assert torch.equal(token_ids, draw(model, processor, PROMPTS[:1], [99], greedy))
    if not isinstance(model.image_head, FlatHead):
        one = Sampler(guidance_scale=1.0, temperature=1.0, top_k=1)
        assert torch.equal(token_ids, draw(model, processor, PROMPTS[:1], [0], one))
    hidden = model(torch.tensor([processor.chat.drawing(PROMPTS[0])])).last_hidden_state[:, -1]
    if isinstance(model.image_head, FlatHead):  # the best of all codes
        best = model.image_head.rows(hidden).argmax(-1) // NUM_PIXEL
    else:
        best = model.image_head.semantic_scores(hidden).argmax(-1)
    assert (token_ids[0, 0] - model.vocabulary.offset) // NUM_PIXEL == best


def test_guidance_of_one_is_the_conditional_model(model, processor):
    inputs = processor.drawings(PROMPTS)
    guided = model.draw_images(**inputs, sampler=PLAIN)
    plain = model.draw_images(inputs["input_ids"], inputs["attention_mask"], sampler=PLAIN)
    assert torch.equal(guided, plain)


def test_guidance_changes_what_is_drawn(model, processor):
    seeds = list(range(16))
    plain = draw(model, processor, PROMPTS[:2] * 8, seeds, PLAIN)
    guided = draw(model, processor, PROMPTS[:2] * 8, seeds, Sampler(guidance_scale=4.0))
    assert not torch.equal(plain, guided)


def test_guided_scores_are_those_of_two_separate_passes(model, processor, monkeypatch):
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(choice, "choose", lambda how, s, u: (seen.append(s), choose(how, s, u))[1])
    scale = 3.0
    token_ids = draw(model, processor, PROMPTS, [0, 1, 2, 3], Sampler(guidance_scale=scale))
    head, offset = model.image_head, model.vocabulary.offset
    with torch.no_grad():
        for row, prompt in enumerate(PROMPTS):
            drawn = token_ids[row].tolist()
            codes = torch.tensor(drawn) - offset
            scores = []
            for words in (prompt, ""):
                prefix = processor.chat.drawing(words)
                output = model(torch.tensor([prefix + drawn[:-1]]))
                hidden = output.last_hidden_state[0, len(prefix) - 1 :]
                scores.append(
                    (
                        head.semantic_scores(hidden),
                        head.pixel_scores(hidden, codes // NUM_PIXEL, model.image_tokenizer),
                    )
                )
            for level in (0, 1):
                expected = scores[1][level] + scale * (scores[0][level] - scores[1][level])
                batched = torch.stack([s[row] for s in seen[level::2]])
                torch.testing.assert_close(batched, expected, atol=1e-4, rtol=1e-4)


def test_the_model_draws_with_the_sampler_of_its_config(processor, hierarchical_model):
    inputs = processor.drawings(PROMPTS * 4)
    own = Sampler(**hierarchical_model.config.image_sampler)
    assert own != PLAIN
    default = hierarchical_model.generate(**inputs, generation_mode="image")
    named = hierarchical_model.generate(**inputs, generation_mode="image", sampler=own)
    assert torch.equal(default, named)
    hierarchical_model.config.image_sampler = own.__dict__ | {"temperature": 0.0}
    try:
        greedy = hierarchical_model.generate(**inputs, generation_mode="image")
    finally:
        hierarchical_model.config.image_sampler = dict(own.__dict__)
    assert torch.equal(greedy[:4], greedy[4:8])
    assert not torch.equal(default, greedy)


def test_guidance_without_an_unconditional_prompt_is_an_error(model, processor):
    input_ids = processor.drawings(["a red bar"])["input_ids"]
    with pytest.raises(ValueError, match="unconditional_ids"):
        model.draw_images(input_ids, sampler=Sampler(guidance_scale=2.0))


def many(scores, sampler, count=20_000):
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(0))
    chosen = choose(sampler, torch.tensor(scores).expand(count, -1), uniform)
    return torch.bincount(chosen, minlength=len(scores))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_codes_are_drawn_from_their_distribution(temperature):
    scores = [0.3, -1.0, 2.0, 1.9, -3.0, 0.0]
    counts = many(scores, Sampler(temperature=temperature))
    expected = (torch.tensor(scores).double() / temperature).softmax(0) * counts.sum()
    assert chisquare(counts, expected).pvalue > 0.01
    other = (torch.tensor(scores).double() / temperature / 1.2).softmax(0) * counts.sum()
    assert chisquare(counts, other).pvalue < 1e-6  # the test can tell


def test_top_k_keeps_the_best_k_in_their_proportions():
    scores = torch.tensor([0.4, 0.05, 0.3, 0.15, 0.1]).log().tolist()
    counts = many(scores, Sampler(top_k=3))
    assert (counts > 0).tolist() == [True, False, True, True, False]
    expected = torch.tensor([0.4, 0.3, 0.15], dtype=torch.double) / 0.85 * counts.sum()
    assert chisquare(counts[[0, 2, 3]], expected).pvalue > 0.01


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.01, [0]), (0.39, [0]), (0.41, [0, 2]), (0.69, [0, 2]), (0.71, [0, 2, 3]), (1.0, range(5))],
)
def test_top_p_keeps_the_fewest_codes_that_reach_p(top_p, kept):
    scores = torch.tensor([0.4, 0.05, 0.3, 0.15, 0.1]).log().tolist()
    counts = many(scores, Sampler(top_p=top_p))
    assert (counts > 0).nonzero().flatten().tolist() == list(kept)


def test_both_cuts_together_keep_what_both_keep():
    scores = torch.tensor([0.4, 0.05, 0.3, 0.15, 0.1]).log().tolist()
    counts = many(scores, Sampler(top_k=2, top_p=0.9))
    assert (counts > 0).nonzero().flatten().tolist() == [0, 2]


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_the_ends_of_the_noise_stay_within_what_is_kept(uniform):
    scores = torch.tensor([[0.0, -1e30, 1.0, -1e30]])
    for sampler in (Sampler(), Sampler(top_k=2), Sampler(top_p=0.7), Sampler(temperature=1e-6)):
        assert choose(sampler, scores, torch.tensor([uniform])).item() in (0, 2)


@pytest.mark.parametrize("temperature", [1e-20, 1e-38, 1e-45, 1e-320])
def test_the_coldest_temperatures_take_the_best_code(temperature):
    scores = torch.tensor([[0.0, 30.0, 31.0, -30.0]] * 2)
    uniform = torch.tensor([0.0, 1 - 2**-24]).double()
    for sampler in (Sampler(temperature=temperature), Sampler(temperature=temperature, top_p=0.9)):
        assert choose(sampler, scores, uniform).tolist() == [2, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers_still_give_a_code(value):
    scores, uniform = torch.full((2, 5), value), torch.tensor([0.0, 0.9]).double()
    for sampler in (Sampler(), Sampler(top_p=0.9), Sampler(top_k=3), Sampler(min_p=0.2)):
        codes = choose(sampler, scores, uniform)
        assert codes.min() >= 0 and codes.max() < 5


def test_noise_belongs_to_the_seed_alone():
    assert torch.equal(noise([3, 9], 4)[1], noise([9], 4)[0])
    assert not torch.equal(noise([3], 4), noise([9], 4))


def test_pixel_codes_may_have_a_temperature_of_their_own(model, processor):
    both = Sampler(guidance_scale=1.0, temperature=1.3, pixel_temperature=1.3)
    assert torch.equal(
        draw(model, processor, PROMPTS, [0, 1, 2, 3], both),
        draw(model, processor, PROMPTS, [0, 1, 2, 3], Sampler(guidance_scale=1.0, temperature=1.3)),
    )
    # The first semantic code is drawn before any pixel code, so only its pixel code can differ.
    seeds = list(range(64))
    greedy = Sampler(guidance_scale=1.0, temperature=1.3, pixel_temperature=0.0)
    first = [draw(model, processor, PROMPTS[:1] * 64, seeds, s)[:, 0] for s in (both, greedy)]
    codes = [tokens - model.vocabulary.offset for tokens in first]
    assert torch.equal(codes[0] // NUM_PIXEL, codes[1] // NUM_PIXEL)
    assert not torch.equal(codes[0], codes[1])
    for semantic in (codes[1] // NUM_PIXEL).unique():
        assert len(codes[1][codes[1] // NUM_PIXEL == semantic].unique()) == 1
