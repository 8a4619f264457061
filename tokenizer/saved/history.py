"""Which phases trained a tokenizer, and on what: kept in its config for the card and for checks."""

from typing import Any

from data_pipelines.loading.dataset import PreparedDataset
from runtime.errors import UserError
from tokenizer.model.configuration_semhitok import SemHiTokConfig

_TRAINED_BY = {"semantic": ("semantic", "joint"), "pixel": ("pixel", "joint")}


def phase_record(settings: Any, dataset: PreparedDataset) -> dict[str, Any]:
    """What a model's config keeps of a phase: no paths, which mean nothing elsewhere."""
    record: dict[str, Any] = {"phase": settings.phase}
    if hasattr(settings, "teacher"):
        auxiliary = [entry.teacher for entry in getattr(settings, "auxiliary_teachers", [])]
        record["teachers"] = [settings.teacher, *auxiliary]
    return record | {
        "num_steps": settings.training.num_steps,
        "global_batch_size": settings.training.global_batch_size,
        "data": dataset.manifest["licences"],
        "num_records": len(dataset),
        "data_fingerprint": dataset.fingerprint,
    }


def add_phase(config: SemHiTokConfig, record: dict[str, Any]) -> None:
    """Append a phase; one that is trained again replaces its earlier record."""
    before = [entry for entry in config.training_history if entry["phase"] != record["phase"]]
    config.training_history = [*before, record]


def require_phase(config: SemHiTokConfig, phase: str, name: str) -> None:
    """Refuse a tokenizer, of this name, whose history lacks the phase "semantic" or "pixel".

    A tokenizer without a history, as one made by hand, is accepted.
    """
    trained = [entry["phase"] for entry in config.training_history]
    if trained and not set(trained) & set(_TRAINED_BY[phase]):
        raise UserError(
            f"the tokenizer {name} has been trained by the phase {' and '.join(trained)} alone; "
            f"run `semhitok train {phase}` first, and give the `model` folder that it writes"
        )
