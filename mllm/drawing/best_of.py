"""Draw several candidates and give the one in which the model itself best sees the prompt.

DALL·E ranks its candidates by CLIP (arXiv 2102.12092, section 2.6). Here the finished picture goes
through the image tokenizer again, and what counts is how much more probable the prompt makes the
semantic codes that the teacher sees in it: log p(codes | prompt) − log p(codes).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from mllm.drawing.engine import DrawingEngine
from mllm.drawing.requests import ImageJob
from mllm.model.modeling_unified import UnifiedModel


def draw_best_of(engine: DrawingEngine, jobs: Iterable[ImageJob]) -> Iterator[tuple[int, Tensor]]:
    """`DrawingEngine.draw`, of `sampler.num_candidates` drawings each the best.

    Candidates of a job are ranked together and apart from other jobs, so that the choice depends on
    nothing else. A job that leaves nothing to draw has one candidate.

    Raises:
        ValueError: if there is more than one candidate and a job has no `negative_ids`.
    """
    num_candidates = engine.sampler.num_candidates
    if num_candidates == 1:
        yield from engine.draw(jobs)
        return
    waiting: dict[int, tuple[ImageJob, dict[int, Tensor]]] = {}

    def candidates() -> Iterator[ImageJob]:
        for number, job in enumerate(jobs):
            if job.negative_ids is None:
                raise ValueError(
                    "Ranking needs unconditional_ids (negative_ids of a job): let the processor "
                    "make them."
                )
            waiting[number] = (job, {})
            yield from (replace(job, candidate=c) for c in range(num_candidates))

    for index, codes in engine.draw(candidates()):
        number, candidate = divmod(index, num_candidates)
        job, drawn = waiting[number]
        drawn[candidate] = codes
        if len(drawn) == num_candidates:
            del waiting[number]
            yield number, _best(engine.model, job, torch.stack([drawn[c] for c in sorted(drawn)]))


@torch.no_grad()
def _best(model: UnifiedModel, job: ImageJob, image_codes: Tensor) -> Tensor:
    """(N,) of the (candidates, N) image codes; the first of equals."""
    token_ids = model.vocabulary.token_ids(image_codes.to(model.device))
    seen = model.get_image_tokens(model.decode_image_tokens(token_ids))
    assert job.negative_ids is not None
    gained = _log_likelihood(model, job.prompt_ids, seen)
    gained -= _log_likelihood(model, job.negative_ids, seen)
    return image_codes[int(gained.argmax())]


def _log_likelihood(model: UnifiedModel, prompt: tuple[int, ...], image_tokens: Tensor) -> Tensor:
    """log p(semantic codes | prompt) of (B, N) image tokens, (B,) in nats; each code is given the
    tokens before it."""
    prompts = image_tokens.new_tensor(prompt).expand(len(image_tokens), -1)
    token_ids = torch.cat([prompts, image_tokens], dim=1)
    hidden = model.language_model.get_decoder()(
        inputs_embeds=model.embed(token_ids), attention_mask=torch.ones_like(token_ids)
    ).last_hidden_state[:, len(prompt) - 1 : -1]
    codes = model.vocabulary.image_codes(image_tokens)
    _, semantic, _ = model.image_head.losses(
        hidden.flatten(0, 1), codes.flatten(), model.image_tokenizer
    )
    return -semantic.view_as(image_tokens).sum(-1)
