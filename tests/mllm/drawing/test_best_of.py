import pytest
import torch

from mllm.drawing.best_of import draw_best_of
from mllm.drawing.engine import DrawingEngine
from mllm.drawing.requests import ImageJob
from mllm.drawing.step.choice import noise
from mllm.model.sampler import Sampler
from tests.mllm.tiny import NUM_PIXEL

PROMPTS = ["a red bar", "a very long prompt about a green box and a red bar", "a box"]
SAMPLER = Sampler(guidance_scale=1.0, temperature=1.5)


def draw_tokens(model, processor, prompts, candidate=0, seeds=(0, 1, 2)):
    """(B, N) image token ids of one candidate, by the engine alone."""
    chat = processor.chat
    negative = tuple(chat.drawing(""))
    jobs = [
        ImageJob(tuple(chat.drawing(prompt)), negative, seed, candidate)
        for prompt, seed in zip(prompts, seeds, strict=False)
    ]
    codes = dict(DrawingEngine(model, SAMPLER, len(jobs)).draw(jobs))
    return model.vocabulary.token_ids(torch.stack([codes[n] for n in range(len(jobs))]))


@torch.no_grad()
def gain(model, processor, prompt, token_ids):
    """log p(codes | prompt) - log p(codes) of one image's re-encoded picture, code by code."""
    seen = model.get_image_tokens(model.decode_image_tokens(token_ids))[0].tolist()
    total = 0.0
    for sign, words in ((1, prompt), (-1, "")):
        prefix = processor.chat.drawing(words)
        for place, token_id in enumerate(seen):
            hidden = model(torch.tensor([prefix + seen[:place]])).last_hidden_state[:, -1]
            log_probs = model.image_head.semantic_scores(hidden).log_softmax(-1)
            code = (token_id - model.vocabulary.offset) // NUM_PIXEL
            total += sign * log_probs[0, code].item()
    return total


def test_the_best_candidate_of_each_prompt_is_given(model, processor):
    inputs, seeds = processor.drawings(PROMPTS), [3, 4, 5]
    best = model.draw_images(**inputs, seeds=seeds, sampler=SAMPLER, num_candidates=5)
    chosen, spreads = set(), []
    for row, prompt in enumerate(PROMPTS):
        candidates = [
            draw_tokens(model, processor, [prompt], number, [seeds[row]]) for number in range(5)
        ]
        gains = [gain(model, processor, prompt, candidate) for candidate in candidates]
        winner = max(range(5), key=lambda number: gains[number])
        chosen.add(winner)
        spreads.append(max(gains) - min(gains))
        assert torch.equal(best[row], candidates[winner][0])
    assert chosen != {0} and max(spreads) > 1e-3


def test_one_candidate_is_the_plain_drawing(model, processor):
    inputs = processor.drawings(PROMPTS)
    plain = draw_tokens(model, processor, PROMPTS)
    assert torch.equal(model.draw_images(**inputs, sampler=SAMPLER), plain)


def test_candidates_have_noise_of_their_own_and_the_first_that_of_the_seed():
    numbers = torch.cat([noise([7], 16, candidate) for candidate in range(4)])
    assert len(numbers.flatten(1).unique(dim=0)) == 4
    assert torch.equal(numbers[:1], noise([7], 16))


def test_ranking_without_an_unconditional_prompt_is_an_error(model, processor):
    input_ids = processor.drawings(["a red bar"])["input_ids"]
    with pytest.raises(ValueError, match="Ranking needs unconditional_ids"):
        model.draw_images(input_ids, sampler=SAMPLER, num_candidates=2)


def test_ranked_candidates_do_not_depend_on_the_batch(hierarchical_model, processor):
    model, chat = hierarchical_model, processor.chat
    sampler = Sampler(guidance_scale=1.5, temperature=1.5, num_candidates=3)
    prompts = ["a red bar", "a blue box", "a very long prompt about a green box"] * 3
    jobs = [
        ImageJob(tuple(chat.drawing(prompt)), tuple(chat.drawing("")), seed)
        for seed, prompt in enumerate(prompts)
    ]
    together = dict(draw_best_of(DrawingEngine(model, sampler, 27), jobs))
    by_four = dict(draw_best_of(DrawingEngine(model, sampler, 4), jobs))
    assert all(torch.equal(together[number], by_four[number]) for number in range(9))
