import pytest
import torch
from scipy.stats import chisquare

from benchmarks.generate import alternative, plain_model
from benchmarks.generate_model import make_model
from mllm.drawing.engine import DrawingEngine
from mllm.drawing.requests import ImageJob
from mllm.drawing.step import choice
from mllm.drawing.step.choice import choose, noise
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


@torch.no_grad()
def test_bfloat16_draws(world):
    from tests.mllm.tiny import make_model as make_tiny

    model = make_tiny(world).to(torch.bfloat16)
    codes = drawn(model, ImageJob((5, 6), (7,), 3), Sampler(guidance_scale=3.0))
    assert codes.shape == (4,) and codes.min() >= 0 and codes.max() < 15


def test_prompts_are_read_once_for_all_their_images(small, monkeypatch):
    engine = DrawingEngine(small, Sampler(guidance_scale=2.0), 16)
    jobs = [ImageJob((5, 6, 7), (5, 7), seed) for seed in range(16)]
    engine._prefixes.clear()
    seen = []
    read = engine.step.read
    monkeypatch.setattr(engine.step, "read", lambda rows: (seen.append(1), read(rows))[1])
    list(engine.draw(jobs))
    assert len(seen) == 2


@torch.no_grad()
def test_no_guidance_computes_half_the_rows(small, monkeypatch):
    for scale, rows in ((1.0, 16), (3.0, 32)):
        engine = DrawingEngine(small, Sampler(guidance_scale=scale), 16)
        seen = []
        step = engine.run.step

        def spy(embeddings, positions, cache, step=step, seen=seen):
            seen.append(len(embeddings))
            return step(embeddings, positions, cache)

        spy.pads_products_alone, spy.read = True, step.read
        engine.run.step = spy
        list(engine.draw([ImageJob((5, 6), (7,), seed) for seed in range(16)]))
        assert set(seen) == {rows} and len(seen) == 15


def test_the_iterable_is_read_no_further_than_the_batch(small):
    read = []

    def endless():
        seed = 0
        while True:
            read.append(seed)
            yield ImageJob((5, 6), (7,), seed)
            seed += 1

    images = DrawingEngine(small, Sampler(guidance_scale=1.0), 4).draw(endless())
    first = [next(images)[0] for _ in range(4)]
    assert first == [0, 1, 2, 3] and len(read) == 4
    next(images)
    assert len(read) == 8


@pytest.mark.slow
def test_ten_thousand_tokens_under_hostile_settings_are_all_in_range():
    model = make_model("quickstart", "hierarchical", 64)
    vocabulary, end = model.vocabulary, model.config.end_of_image_token_id
    prompts = torch.randint(4, 1000, (160, 5), generator=torch.Generator().manual_seed(0))
    for top_k, top_p in ((1, 1e-9), (1, 1.0), (0, 1e-9)):
        drawn = model.generate(
            input_ids=prompts[: 160 if top_k and top_p < 1 else 16],
            unconditional_ids=prompts[: 160 if top_k and top_p < 1 else 16, :2],
            generation_mode="image", end_of_image=True, batch_size=64,
            temperature=5.0, top_k=top_k, top_p=top_p, guidance_scale=3.0,
        )  # fmt: skip
        assert drawn.shape[1] == 65 and (drawn[:, -1] == end).all()
        tokens = drawn[:, :-1]
        assert tokens.min() >= vocabulary.offset and tokens.max() < vocabulary.size
        assert vocabulary.is_image(tokens).all()
        if top_k and top_p < 1:
            assert tokens.numel() >= 10_000
