"""What the model draws and answers while it trains: pictures and text in the run's folder.

samples/000500.png          drawings of a few captions of the data, side by side
samples/000500.json         those captions; a few questions, what was answered, and the truth
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled

from data_pipelines.images import write_png
from mllm.data.sources import question_pairs
from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.model.lora import whole_parameters
from mllm.model.processing_unified import UnifiedProcessor
from mllm.model.sampler import Sampler, model_sampler
from mllm.training.report import Reporter
from mllm.training.trainer import UnifiedTrainer
from runtime.files import write_json
from runtime.run_folder import make_folder

NUM_SAMPLES = 4
MAX_NEW_TOKENS = 32


class Samples(TrainerCallback):
    """Draws and answers every few steps, without any effect on training; captions and questions are
    the first that fit the context, of one record each, and TensorBoard shows the samples too."""

    def __init__(self, trainer: UnifiedTrainer, reporter: Reporter, processor: UnifiedProcessor):
        self.trainer, self.reporter, self.processor = trainer, reporter, processor
        self.model: UnifiedForConditionalGeneration = trainer.model
        self.captions = list(islice(self._fitting_captions(), NUM_SAMPLES))
        self.asked = list(islice(self._fitting_questions(), NUM_SAMPLES))

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.trainer.settings.samples_every:
            return
        # Under ZeRO-3 each rank holds a piece of every matrix, so all must run the model.
        if not state.is_world_process_zero and not is_deepspeed_zero3_enabled():
            return
        with undisturbed(self.model), whole_model(self.trainer.model_wrapped):
            picture = self._draw() if self.captions else None
            answers = self._answer() if self.asked else []
        if state.is_world_process_zero:
            self._write(state.global_step, picture, answers)

    def _fits(self, num_tokens: int) -> bool:
        """Whether the model reads so many; training has not asked where it leaves a task out."""
        context = self.model.config.context_length
        return context is None or num_tokens <= context

    def _fitting_captions(self) -> Iterator[str]:
        chat = self.processor.chat
        for _, record in self.trainer.train_dataset.records_of("drawing"):
            for caption in record.captions:
                if self._fits(len(chat.drawing(caption)) + chat.num_image_positions):
                    yield caption
                    break

    def _fitting_questions(self) -> Iterator[tuple[list[int], str, str]]:
        """Prompts with the image's tokens, their questions and the truth."""
        chat, offset = self.processor.chat, self.model.vocabulary.offset
        for source, record in self.trainer.train_dataset.records_of("question"):
            for question, truth in question_pairs(record.questions):
                image = (source.codes.flat(record.record_id) + offset).tolist()
                prompt = chat.expand(chat.question_ids(question), [image])
                if self._fits(len(prompt) + MAX_NEW_TOKENS):
                    yield prompt, question, truth
                    break

    def _draw(self) -> Image.Image:
        sampler = model_sampler(self.model.config.image_sampler, Sampler(num_candidates=1))
        inputs = self.processor.drawings(self.captions).to(self.model.device)
        tokens = self.model.generate(generation_mode="image", **inputs, sampler=sampler)
        pictures = self.processor.pictures(self.model.decode_image_tokens(tokens).float().cpu())
        width, height = pictures[0].size
        sheet = Image.new("RGB", (width * len(pictures), height))
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (column * width, 0))
        return sheet

    def _answer(self) -> list[dict[str, str]]:
        prompts = [prompt for prompt, _, _ in self.asked]
        inputs = BatchFeature(self.processor.pad(prompts)).to(self.model.device)
        token_ids = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        texts = self.processor.answers(token_ids, inputs["input_ids"].shape[1])
        return [
            {"question": question, "answer": text, "truth": truth}
            for (_, question, truth), text in zip(self.asked, texts, strict=True)
        ]

    def _write(self, step: int, picture: Image.Image | None, answers: list[dict]) -> None:
        folder = make_folder(self.trainer.settings.out / "samples")
        log = self.reporter.log
        if picture is not None:
            write_png(picture, folder / f"{step:06}.png")
            if log is not None:
                log.write_image(step, "drawings", np.asarray(picture))
        write_json(folder / f"{step:06}.json", {"captions": self.captions, "answers": answers})
        if log is not None:
            lines = [f"{a['question']} **{a['answer']}** ({a['truth']})" for a in answers]
            log.write_text(step, "answers", "\n\n".join(lines))


@contextmanager
def whole_model(engine: Any) -> Iterator[None]:
    """Let every rank hold the whole model, which ZeRO-3 has cut up; any other one is left alone.

    Drawing reads weights where no module is called, so DeepSpeed's hooks would not gather them; and
    gathering each layer for each token would take longer than training.
    """
    offload = getattr(getattr(engine, "optimizer", None), "parameter_offload", None)
    if offload is None:
        yield
        return
    parameters = list(engine.parameters())
    with whole_parameters(parameters):
        for parameter in parameters:
            parameter.ds_active_sub_modules.clear()
        offload._remove_module_hooks()  # they would cut each layer up again after its call
        offload.forward_hooks, offload.backward_hooks = [], []
        try:
            yield
        finally:
            offload.setup_zero_stage3_hooks()


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Use the model; afterwards its mode and every random state are as before."""
    was_training = model.training
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    model.eval()
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        model.train(was_training)
        random.setstate(states[0])
        np.random.set_state(states[1])
