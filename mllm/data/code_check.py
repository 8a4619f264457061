"""Whether codes may be trained on: of the model's own image tokenizer, of these images, whole.

Nothing else would tell: codes of another tokenizer are integers of the same range, and the loss
falls on them as well.
"""

from pathlib import Path
from typing import Any

from data_pipelines.loading.dataset import PreparedDataset
from mllm.data.settings import SourceSettings
from mllm.data.sources import TrainingSource
from runtime.errors import UserError
from runtime.files import read_json, write_json
from runtime.ranks import is_main_rank
from tokenizer.extraction.code_shards import CodeStore


def open_sources(
    sources: list[SourceSettings], code_fingerprint: str, model: Path
) -> list[TrainingSource]:
    """Open the data and codes that a run trains on.

    Args:
        sources: their folders.
        code_fingerprint: of the image tokenizer inside the model.
        model: its folder, for messages.

    Raises:
        UserError: for codes of another tokenizer or of other images, and for a damaged shard.
    """
    opened = []
    for source in sources:
        records = PreparedDataset(source.data)
        codes = None if source.codes is None else CodeStore(source.codes)
        if codes is not None:
            _refuse_wrong_codes(source, codes, records, code_fingerprint, model)
        opened.append(TrainingSource.open(records, codes, source.weight))
    return opened


def _refuse_wrong_codes(
    source: SourceSettings,
    codes: CodeStore,
    records: PreparedDataset,
    code_fingerprint: str,
    model: Path,
) -> None:
    if codes.manifest.tokenizer_fingerprint != code_fingerprint:
        raise UserError(
            f"the codes in {source.codes} were made by another tokenizer than the one inside "
            f"{model}; extract codes with that tokenizer, or init the model with the other"
        )
    # Two folders of images may both hold a 0001.png, so the records' names alone prove nothing.
    if codes.manifest.data_fingerprint != records.fingerprint:
        raise UserError(
            f"the codes in {source.codes} were extracted from other data than {source.data}, or "
            f"that was prepared again since; extract codes from {source.data}"
        )
    if is_main_rank():
        codes.verify()


def refuse_other_run(out: Path, sources: list[TrainingSource]) -> None:
    """Refuse to resume a run, if there is one in `out`, with other codes than it began with.

    The model in a checkpoint holds the tokenizer that its codes were made by.
    """
    path = out / "codes.json"
    stores = [source.codes for source in sources if source.codes is not None]
    mine: dict[str, Any] = {
        "tokenizer_fingerprint": " ".join(s.manifest.tokenizer_fingerprint for s in stores),
        "data_fingerprint": " ".join(s.manifest.data_fingerprint for s in stores),
        "num_crops": " ".join(str(s.num_crops) for s in stores),
    }
    if path.is_file() and any((out / "checkpoints").glob("checkpoint-*")):
        changed = [
            key.replace("_", " ")
            for key, value in read_json(path).items()
            if mine.get(key) != value
        ]
        if changed:
            raise UserError(
                f"the run in {out} began with codes of another {' and '.join(changed)}; give "
                f"another `out`, or delete {out}"
            )
    elif is_main_rank():
        write_json(path, mine)
