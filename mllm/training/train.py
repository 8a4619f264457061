"""Train the unified model with the HF Trainer, in packed sequences of all its tasks.

    semhitok train mllm --config configs/quickstart/mllm.yaml
    torchrun --nproc_per_node 2 -m semhitok train mllm --config FILE deepspeed=JSON

The loss of a sequence does not depend on the sequences beside it, so ranks, micro-batches and
accumulation change nothing but speed.
"""

import os
from contextlib import closing
from functools import partial
from pathlib import Path

from transformers import PrinterCallback, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled

from data_pipelines.loading.dataset import num_of
from mllm.data.packing import pack
from mllm.data.sequences import TrainingSequences
from mllm.data.sources import NOUNS, nothing_to_train, open_sources, refuse_other_run
from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.model.attention import choose_attention
from mllm.model.loss import compute_loss_in_one_call
from mllm.model.processing_unified import UnifiedProcessor
from mllm.phase.lora_phase import load_for_lora
from mllm.phase.parameter_groups import freeze_parts
from mllm.phase.settings import PhaseSettings
from mllm.planning.flops import flops_per_sequence
from mllm.saved.load import load_config, load_processor
from mllm.saved.saved_weights import saved_code_fingerprint
from mllm.training.arguments import training_arguments
from mllm.training.checkpoints import CHECKPOINTS, Checkpoint, delete_all, newest
from mllm.training.deepspeed import make_universal
from mllm.training.report import Reporter
from mllm.training.samples import Samples
from mllm.training.trainer import UnifiedTrainer
from runtime import resume
from runtime.files import write_json
from runtime.rank_group import own_group
from runtime.run_folder import start_run
from runtime.settings import to_dict
from runtime.yaml_values import read_values
from tokenizer.saved.model_folder import refuse_nonfinite, whole_folder


def check_data(settings: PhaseSettings) -> None:
    """Refuse prepared data that hold nothing for a task of the mixture, in a `UserError`."""
    folders = [source.data for source in settings.all_sources]
    for task, noun in NOUNS.items():
        if getattr(settings.mixture.proportions, task) > 0 and not num_of(folders, f"{noun}s"):
            raise nothing_to_train(task)


def train_mllm(settings: PhaseSettings) -> Path:
    """Train from `settings.model`, or from the last whole checkpoint in `settings.out`.

    A finished run stays as it is.

    Returns:
        The folder of the trained model, `out/model`.

    Raises:
        UserError: if settings, data and folders do not fit, training diverges, or another run is
            using the folder.
    """
    checkpoints = settings.out / CHECKPOINTS
    start_again = partial(delete_all, checkpoints) if settings.overwrite else None
    with resume.open_run(settings.out, settings, start_again) as is_finished:
        if is_finished:
            return settings.out / "model"
        with own_group():
            return _train(settings)


def _train(settings: PhaseSettings) -> Path:
    last = None if settings.overwrite else _last_checkpoint(settings)
    # DeepSpeed's shards are of one number of ranks; the Trainer's own checkpoints are of any.
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    universal = settings.deepspeed is not None and last is not None and last.num_ranks != num_ranks
    processor = load_processor(settings.model)
    arguments = training_arguments(settings, universal)
    sequences = _sequences(settings, processor)
    set_seed(settings.seed)
    # Only now, so that a refused run leaves the folder as it was.
    folder = start_run(settings.out, to_dict(settings), "train mllm")
    refuse_other_run(settings.out, sequences.sources)
    write_json(folder / "sequences.json", sequences.describe())
    model = _model(settings, processor)
    length = settings.max_seq_length
    packed_length = length if settings.packing else None
    pad_token_id = processor.tokenizer.pad_token_id
    trainer = UnifiedTrainer(
        settings, universal, model=model, args=arguments, train_dataset=sequences,
        data_collator=partial(pack, length=packed_length, pad_token_id=pad_token_id),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # it prints a dictionary between the progress lines
    flops = flops_per_sequence(model, settings, recompute=False)
    reporter = Reporter(trainer.tally, settings, trainer.groups[0].multiplier, flops / length)
    trainer.add_callback(reporter)
    if settings.samples_every is not None:
        trainer.add_callback(Samples(trainer, reporter, processor))
    if universal and last is not None:
        if trainer.is_world_process_zero():
            make_universal(last.folder)
        trainer.accelerator.wait_for_everyone()
    with closing(reporter):
        trainer.train(resume_from_checkpoint=None if last is None else str(last.folder))
    if settings.deepspeed is not None:
        assert type(trainer.model_wrapped).__name__ == "DeepSpeedEngine"
    trainer.stop_at_bad_steps()  # the weights may be those of a run that diverged
    model_folder = folder / "model"
    refuse_nonfinite(model, f"the model for {model_folder}")
    with whole_folder(model_folder) as unfinished:
        trainer.save_trained(unfinished)
        if trainer.is_world_process_zero():
            (unfinished / "training_args.bin").unlink(missing_ok=True)  # a pickle
            model.generation_config.save_pretrained(unfinished)
            processor.save_pretrained(unfinished)
        trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        resume.mark_finished(settings.out, settings)
        delete_all(Path(arguments.output_dir))
    return model_folder


def _last_checkpoint(settings: PhaseSettings) -> Checkpoint | None:
    """The newest whole checkpoint of the run in `settings.out`.

    Raises:
        UserError: if the run had other settings, or its checkpoints are damaged.
    """
    last = newest(settings.out / CHECKPOINTS)
    saved = settings.out / "config.yaml"
    if last is not None and saved.is_file():
        # These spread the same steps otherwise, as another number of ranks may ask for.
        free = {name: getattr(settings, name) for name in ("micro_batch_size", "num_workers")}
        resume.refuse_other_settings(
            settings.out / CHECKPOINTS, settings, read_values(saved) | free
        )
    return last


def _sequences(settings: PhaseSettings, processor: UnifiedProcessor) -> TrainingSequences:
    """The run's sequences, from sources whose codes belong to the model."""
    config, batch = load_config(settings.model), settings.global_batch_size
    fingerprint = saved_code_fingerprint(settings.model, config)
    return TrainingSequences(
        open_sources(settings.all_sources, fingerprint, settings.model),
        processor.chat, config.image_token_offset, settings.mixture, settings.max_seq_length,
        settings.num_steps * batch, settings.seed, config.context_length, settings.packing, batch,
    )  # fmt: skip


def _model(settings: PhaseSettings, processor: UnifiedProcessor) -> UnifiedForConditionalGeneration:
    """The model, ready to be trained."""
    model = load_for_lora(settings.model, settings.lora, processor.tokenizer, settings.seed)
    freeze_parts(model, settings)
    choose_attention(model.language_model.get_decoder(), settings.attention)
    if is_deepspeed_zero3_enabled():
        for head in (model.get_output_embeddings(), model.image_head.rows):
            compute_loss_in_one_call(head)
    return model
