"""Draw images token by token, a whole list of them: each slot of the batch is always at work.

Guidance is u + s·(c − u) on the scores of both levels, c with the prompt and u with the negative
one, which is empty unless given; both are rows of one pass. A finished image makes room for the
next at once, and each is drawn from its own seed, whatever shares the batch
(see `cpu.batch_invariance`).

Shapes: B images, N positions, R rows (two an image with guidance), K semantic codes, M pixel codes.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mllm.drawing.choice import choose, guidance_scales, noise
from mllm.drawing.cpu.batch_invariance import Passes, find_passes
from mllm.drawing.cpu.compiled_pass import CompiledPass
from mllm.drawing.cpu.prepacked import pays, with_packed_linears
from mllm.drawing.cpu.tables import PackedFlatHead, make_table, ready_head
from mllm.drawing.job import ImageJob, check_job
from mllm.drawing.slot_cache import PLACES, Prefix, SlotCache
from mllm.drawing.slots import Slots
from mllm.drawing.step import LeanStep, make_step
from mllm.model.heads import FlatHead
from mllm.model.sampler import Sampler, model_sampler

if TYPE_CHECKING:
    from mllm.model.modeling_unified import UnifiedModel

MAX_PREFIXES = 64  # remembered at once: of a list, the last prompts and the empty one


class DrawingEngine:
    """Draws `ImageJob`s. It reads the model's weights once: make another after changing them.

    Args:
        model: in eval mode.
        sampler: by default the one in the model's config.
        batch_size: images in a pass.
        compile_step: compile the pass (see `cpu.compiled_pass`). It then has always `batch_size`
            images, so this pays on long lists; an image does not depend on its company, but may
            change its last bit, and by it a code, with the batch size. Of a model whose matrices
            are packed it takes three copies of the weights in place of one, and eight while it
            compiles; of one of them torch does not give the memory back when the engine goes.
    """

    def __init__(
        self,
        model: "UnifiedModel",
        sampler: Sampler | None = None,
        batch_size: int = 16,
        compile_step: bool = False,
    ):
        self.model = model
        self.sampler = sampler or model_sampler(model.config.image_sampler)
        self.pixel_sampler = self.sampler.for_pixels()
        self.num_positions = model.config.num_image_positions
        self.greedy = self.sampler.temperature == 0 == self.pixel_sampler.temperature
        self.rows_each = 2 if self.sampler.guided else 1
        self.batch_size = batch_size
        self.dtype = model.language_model.get_input_embeddings().weight.dtype
        self.packed = packed = pays(model.language_model)
        self.adapter = with_packed_linears(model.adapter) if packed else model.adapter
        self.head = ready_head(model, packed, compile_step)
        self.step = make_step(model.language_model.get_decoder(), packed, compile_step)
        self.table = make_table(model)
        self.compiled = CompiledPass(self) if compile_step else None
        self.scales = guidance_scales(self.sampler, self.num_positions).to(model.device)
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()
        width = model.config.text_config.hidden_size
        self.passes, self.slots_a_pass = Passes(), batch_size
        if self.compiled is None:
            self.passes = find_passes(model, type(self.step), width, self.dtype, self._probe)
            rows = self.passes.largest(batch_size * self.rows_each)
            self.slots_a_pass = max(1, rows // self.rows_each)

    # ---- prefixes

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
        check_job(
            job,
            self.model.config,
            self.model.vocabulary,
            self.num_positions,
            self.sampler.guided,
        )

    # ---- the loop

    def draw(self, jobs: Iterable[ImageJob]) -> Iterator[tuple[int, Tensor]]:
        """Draw every job; what is read ahead of the iterable is at most `batch_size`.

        Yields:
            Each job's place in `jobs`, and its (N,) flat image codes on the CPU; in the order in
            which they are finished.

        Raises:
            UserError: see `check`; what was finished before has been given.
        """
        queue = enumerate(jobs)
        slots: Slots | None = None
        while True:
            while slots is None or len(slots.numbers) < self.batch_size:
                number, job = next(queue, (None, None))
                if number is None or job is None:
                    break
                self.check(job)
                slots = slots or self._make_slots()
                finished = self._begin(slots, number, job)
                if finished is not None:
                    yield number, finished
            if slots is None or not slots.numbers:
                return
            for first in range(0, len(slots.numbers), self.slots_a_pass):
                count = min(self.slots_a_pass, len(slots.numbers) - first)
                self._advance(slots, first, count)
            done = [slot for slot, n in enumerate(slots.done) if n == self.num_positions]
            codes = slots.codes[done].cpu() if done else None
            for order, slot in enumerate(done):
                assert codes is not None
                yield slots.numbers[slot], codes[order]
            for slot in reversed(done):
                slots.drop(slot)

    def _make_slots(self) -> Slots:
        # Passes begin at multiples of their slots, and the last of them may be padded.
        last = (self.batch_size - 1) // self.slots_a_pass * self.slots_a_pass
        rows = last * self.rows_each
        rows += self.passes.padded((self.batch_size - last) * self.rows_each)
        width = self.model.config.text_config.hidden_size
        device = self.model.device
        num_slots = -(-rows // self.rows_each)
        return Slots(
            cache=SlotCache(rows, self.compiled.grows_by if self.compiled else PLACES),
            rows_each=self.rows_each,
            hidden=torch.zeros(rows, width, dtype=self.dtype, device=device),
            uniform=noise([0] * num_slots, self.num_positions).to(device),
            kept=torch.full((num_slots, self.num_positions, 2), -1, device=device),
            codes=torch.zeros(num_slots, self.num_positions, dtype=torch.int64, device=device),
        )

    def _begin(self, slots: Slots, number: int, job: ImageJob) -> Tensor | None:
        """Give the next free slot to a job; its codes at once, if all of them are kept."""
        kept = torch.stack(job.kept(self.num_positions), dim=-1)
        drawn = (kept < 0).any(-1).nonzero()
        codes = kept[:, 0] * self.model.vocabulary.num_pixel_codes + kept[:, 1]
        if len(drawn) == 0:
            return codes
        # What stays before the first place that is drawn is read at once, as part of the prompt.
        first = int(drawn[0])
        read = tuple(self.model.vocabulary.token_ids(codes[:first]).tolist())
        prompts = [job.prompt_ids, job.negative_ids][: self.rows_each]
        prefixes = [self.prefix((*prompt, *read)) for prompt in prompts if prompt is not None]
        slot = slots.add(number, first, list(map(len, prefixes)), kept)
        rows = range(len(slots.hidden))[slots.rows_of(slot)]
        spare = self.compiled.spare_places if self.compiled else 0
        for row, prefix in zip(rows, prefixes, strict=True):
            slots.cache.insert(row, prefix, self.num_positions - first + spare)
            slots.hidden[row] = prefix.hidden
        slots.uniform[slot] = noise([job.seed], self.num_positions, job.candidate)[0]
        slots.codes[slot, :first] = codes[:first]
        return None

    @torch.no_grad()
    def _advance(self, slots: Slots, first: int, count: int) -> None:
        """Draw one code of each of `count` slots from `first`, and append it to its rows."""
        if self.compiled is not None:
            self.compiled(slots)
        else:
            self._advance_eagerly(slots, first, count)
        slots.count(first, count)

    def _advance_eagerly(self, slots: Slots, first: int, count: int) -> None:
        each, longest = self.rows_each, max(slots.longest[first : first + count])
        num_rows = self.passes.padded(count * each)
        rows = slice(first * each, first * each + num_rows)
        index = slice(first, first + num_rows // each)
        positions = slots.positions[index]
        of_rows = slots.row_places[rows]
        if self.step.pads_products_alone:
            of_rows = of_rows[: count * each]
        slots.cache.aim(rows.start, of_rows, longest)
        kept = slots.kept[index] if any(slots.keeps[first : first + count]) else None
        all_kept = all(slots.keeps_semantics[first : first + count])
        codes = self.choose_codes(
            slots.hidden[rows], slots.uniform[index], positions, kept, semantics_kept=all_kept
        )
        slots.codes[index].scatter_(1, positions.unsqueeze(-1), codes.unsqueeze(-1))
        if any(done + 1 < self.num_positions for done in slots.done[first : first + count]):
            hidden = self.step(self.embed(codes, positions), of_rows, slots.cache)
            slots.hidden[rows] = hidden
        slots.positions[first : first + count] += 1
        slots.row_places[first * each : (first + count) * each] += 1

    def choose_codes(
        self,
        hidden: Tensor,
        uniform: Tensor,
        places: Tensor,
        kept: Tensor | None,
        semantics_kept: bool = False,
    ) -> Tensor:
        """Draw the codes that states predict.

        Args:
            hidden: (R, D) states.
            uniform: (slots, N, 2) noise of both levels.
            places: (slots,) image positions.
            kept: (slots, N, 2) codes of both levels that are given, -1 where they are drawn; None
                where none is.
            semantics_kept: whether every semantic code is given.

        Returns:
            (slots,) flat codes.
        """
        every = torch.arange(len(places), device=places.device)
        uniform = uniform[every, places]
        scales = self.scales[places].unsqueeze(-1)
        if kept is not None:
            kept = kept[every, places]
        if kept is not None and semantics_kept:
            semantic = kept[:, 0].clamp_min(0)
        else:
            scores = self._semantic_scores(hidden, scales)
            semantic = choose(self.sampler, scores, uniform[:, 0])
            if kept is not None:
                semantic = torch.where(kept[:, 0] >= 0, kept[:, 0], semantic)
        scores = self.head.pixel_scores(
            hidden, self._each_row(semantic), self.model.image_tokenizer
        )
        pixel = choose(self.pixel_sampler, self._guide(scores, scales), uniform[:, 1])
        if kept is not None:
            pixel = torch.where(kept[:, 1] >= 0, kept[:, 1], pixel)
        return semantic * self.model.vocabulary.num_pixel_codes + pixel

    def _semantic_scores(self, hidden: Tensor, scales: Tensor) -> Tensor:
        if isinstance(self.head, FlatHead | PackedFlatHead) and self.greedy:
            # The best of all flat codes, which need not belong to the best semantic code.
            return self._guide(self.head.flat_scores(hidden), scales.unsqueeze(-1)).amax(-1)
        return self._guide(self.head.semantic_scores(hidden), scales)

    def _guide(self, scores: Tensor, scales: Tensor) -> Tensor:
        """(slots, C) scores of (R, C): u + s·(c − u)."""
        if self.rows_each == 1:
            return scores
        return torch.lerp(scores[1::2], scores[0::2], scales)

    def _each_row(self, values: Tensor) -> Tensor:
        """(slots, ...) → (R, ...)."""
        if self.rows_each == 1:
            return values
        return values.unsqueeze(1).expand(-1, 2, *values.shape[1:]).flatten(0, 1)

    def embed(self, codes: Tensor, places: Tensor) -> Tensor:
        """(R, D) of (slots,) flat codes at their image positions."""
        if self.table is None:
            return self.adapter(
                self._each_row(codes), self.model.image_tokenizer, self._each_row(places)
            ).to(self.dtype)
        return self._each_row(self.table(codes, places))

    def _probe(self, states: Tensor) -> list[Tensor]:
        """What drawing computes of states, for `find_passes`."""
        image_tokenizer = self.model.image_tokenizer
        cache, prefix, layers = SlotCache(len(states)), self.prefix((0, 1)), None
        if isinstance(self.step, LeanStep):  # its layers are alike: one is enough
            layers = 1
            prefix = replace(prefix, keys=prefix.keys[:1], values=prefix.values[:1])
        for row in range(len(states)):
            # Also of a length that depends on the number of rows, as the longest prompt may.
            cache.insert(row, prefix, PLACES * (1 + len(states) // 16))
        places = torch.full((len(states),), len(prefix))
        cache.aim(0, places, cache.capacity - 1)
        codes = torch.zeros(len(states), dtype=torch.int64)
        return [
            self.step(states, places, cache, layers),
            self.head.semantic_scores(states),
            self.head.pixel_scores(states, codes, image_tokenizer),
            self.adapter(codes, image_tokenizer, codes),
        ]
