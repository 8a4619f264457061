"""Which phases trained a tokenizer, on what: written into its config, read by card and checks."""

from typing import Any

from data_pipelines.loading.dataset import PreparedDataset
from runtime.errors import UserError
from tokenizer.model.configuration_semhitok import SemHiTokConfig

_NEEDS = {"semantic": ("semantic", "joint"), "pixel": ("pixel", "joint")}


def phase_record(phase: str, config: Any, dataset: PreparedDataset) -> dict[str, Any]:
    """What a model says of one phase of its training.

    Args:
        phase: "semantic", "pixel", "decoder" or "joint".
        config: the phase's config; its paths stay out, since they mean nothing elsewhere.
        dataset: what it is trained on.
    """
    record: dict[str, Any] = {"phase": phase}
    if hasattr(config, "teacher"):
        further = [entry.teacher for entry in getattr(config, "further_teachers", [])]
        record["teachers"] = [config.teacher, *further]
    return record | {
        "num_steps": config.training.num_steps,
        "global_batch_size": config.training.global_batch_size,
        "data": [
            {key: entry[key] for key in ("source", "licence", "origin")}
            for entry in dataset.manifest["licences"]
        ],
        "num_records": len(dataset),
        "data_fingerprint": dataset.fingerprint,
    }


def add_phase(config: SemHiTokConfig, record: dict[str, Any]) -> None:
    """Append a phase; one that is trained again takes the place of its earlier record."""
    before = [entry for entry in config.training_history if entry["phase"] != record["phase"]]
    config.training_history = [*before, record]


def require_phase(config: SemHiTokConfig, phase: str, name: str) -> None:
    """Refuse a tokenizer that says it has not been through a phase.

    One that says nothing, as those made by hand or before there was a history, is taken.

    Args:
        phase: "semantic" or "pixel".
        name: of the tokenizer, for the sentence.
    """
    trained = [entry["phase"] for entry in config.training_history]
    if trained and not set(trained) & set(_NEEDS[phase]):
        raise UserError(
            f"The tokenizer {name} has been trained by the phase {' and '.join(trained)} alone: "
            f"run `semhitok train {phase}` first, and give the `model` folder that it writes."
        )
