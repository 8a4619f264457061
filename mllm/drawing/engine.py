"""Draw images token by token, a whole list of them: each slot of the batch is always at work.

A finished image makes room for the next at once. Each is drawn from its own seed, whatever shares
the batch (see `cpu.batch_invariance`).

Shapes: N image positions, R rows (two an image with guidance), D width.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from mllm.drawing.cpu.parts import make_parts
from mllm.drawing.requests import ImageJob, check_job
from mllm.drawing.step.choice import CodeChoice, noise
from mllm.drawing.step.slots import Prefix, Slots
from mllm.model.modeling_unified import UnifiedModel
from mllm.model.sampler import Sampler, model_sampler
from runtime.memory import require_memory

MAX_PREFIXES = 64  # remembered at once: of a list, the last prompts and the empty one


class DrawingEngine:
    """Draws `ImageJob`s. It reads the model's weights once: make another after changing them.

    Args:
        model: in eval mode.
        sampler: by default the one in the model's config.
        batch_size: images in a pass.
        compile_step: compile the pass (see `cpu.compiled_pass`). It then always has `batch_size`
            images, so this is worthwhile for long lists; an image does not depend on what shares
            its batch, but may change its last bit, and by it a code, with the batch size. On a CPU
            a large model then takes three copies of the weights in place of one, and eight while it
            compiles; torch does not give back the memory of one of them.
    """

    def __init__(
        self,
        model: UnifiedModel,
        sampler: Sampler | None = None,
        batch_size: int = 16,
        compile_step: bool = False,
    ):
        self.model, self.batch_size = model, batch_size
        self.sampler = sampler or model_sampler(model.config.image_sampler)
        self.num_positions = model.config.num_image_positions
        parts = make_parts(model, compile_step)
        self.step = parts.step
        choice = CodeChoice(model, parts.head, self.sampler)
        self.rows_each = choice.rows_each
        self.run = parts.make_pass(model, choice, batch_size, compile_step)
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()

    @torch.no_grad()
    def prefix(self, token_ids: tuple[int, ...]) -> Prefix:
        """Keys, values and last state of a prompt, computed once for all images of it.

        Alone in its batch, so that nothing of it depends on other prompts.
        """
        if token_ids in self._prefixes:
            self._prefixes.move_to_end(token_ids)
            return self._prefixes[token_ids]
        input_ids = torch.tensor([token_ids], device=self.model.device)
        if bool(self.model.vocabulary.is_image(input_ids).any()):
            embeddings = self.model.embed(input_ids)
        else:  # no adapter, which takes longer than a small model's layers
            embeddings = self.model.get_input_embeddings()(input_ids)
        prefix = self.step.read(embeddings[0])
        self._prefixes[token_ids] = prefix
        if len(self._prefixes) > MAX_PREFIXES:
            self._prefixes.popitem(last=False)
        return prefix

    def check(self, job: ImageJob) -> None:
        """Refuse a job that the model cannot draw, see `check_job`."""
        check_job(job, self.model.config, self.sampler.guided)

    def draw(self, jobs: Iterable[ImageJob]) -> Iterator[tuple[int, Tensor]]:
        """Draw every job; at most `batch_size` of the iterable are read ahead.

        Yields:
            Each job's index in `jobs`, and its (N,) flat image codes on the CPU; in the order in
            which they are finished, also those before an error of `check`.
        """
        queue = enumerate(jobs)
        slots: Slots | None = None
        while True:
            while slots is None or len(slots.images) < self.batch_size:
                number, job = next(queue, (None, None))
                if number is None or job is None:
                    break
                self.check(job)
                slots = slots or self._make_slots()
                finished = self._begin(slots, number, job)
                if finished is not None:
                    yield number, finished
            if slots is None or not slots.images:
                return
            self._advance(slots)
            done = [i for i, image in enumerate(slots.images) if image.done == self.num_positions]
            codes = slots.codes[done].cpu() if done else None
            for order, slot in enumerate(done):
                assert codes is not None
                yield slots.images[slot].number, codes[order]
            for slot in reversed(done):
                slots.drop(slot)

    def _make_slots(self) -> Slots:
        num_rows = self.run.num_rows
        weight: Any = self.model.get_input_embeddings().weight
        if weight.device.type == "cpu":
            require_memory(
                num_rows * self.num_positions * self._cache_numbers() * weight.element_size(),
                f"drawing {self.batch_size:,} images at once",
                "lower the batch size",
            )
        hidden = weight.new_empty(0, self.model.config.text_config.hidden_size)
        return Slots(num_rows, self.rows_each, self.num_positions, hidden, self.run.growth)

    def _cache_numbers(self) -> int:
        """Numbers that the cache holds of a token: keys and values of every layer."""
        text = self.model.config.text_config
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        num_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        return 2 * text.num_hidden_layers * num_heads * head_dim

    def _begin(self, slots: Slots, number: int, job: ImageJob) -> Tensor | None:
        """Give the next free slot to a job; its codes at once, if all of them are kept."""
        kept = torch.full((self.num_positions, 2), -1) if job.kept is None else job.kept.cpu()
        drawn = (kept < 0).any(-1).nonzero()
        codes = kept[:, 0] * self.model.vocabulary.num_pixel_codes + kept[:, 1]
        if len(drawn) == 0:
            return codes
        # What stays before the first position that is drawn is read at once, with the prompt.
        first = int(drawn[0])
        read = tuple(self.model.vocabulary.token_ids(codes[:first]).tolist())
        prompts = [job.prompt_ids, job.negative_ids][: self.rows_each]
        prefixes = [self.prefix((*prompt, *read)) for prompt in prompts if prompt is not None]
        num_more = self.num_positions - first + self.run.spare_positions
        slot = slots.add(number, first, prefixes, kept, num_more)
        slots.uniform[slot] = noise([job.seed], self.num_positions, job.candidate)[0]
        slots.codes[slot, :first] = codes[:first]
        return None

    @torch.no_grad()
    def _advance(self, slots: Slots) -> None:
        """Draw one code of each active slot, and append it to its rows."""
        self.run(slots)
        slots.count()
