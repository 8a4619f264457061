"""Whether codes may be trained on: of the model's own image tokenizer, of these images, whole.

Nothing else would tell: codes of another tokenizer are integers of the same range, and the loss
falls on them as well.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_pipelines.loading.dataset import PreparedDataset
from mllm.phase.settings import SourceConfig
from runtime.errors import UserError
from runtime.ranks import is_main_rank
from runtime.run_folder import read_json, write_json
from tokenizer.extraction.code_shards import CodeStore


def refuse_wrong_codes(
    source: SourceConfig,
    codes: CodeStore,
    records: PreparedDataset,
    fingerprint: str,
    model: Path,
) -> None:
    """Refuse codes that do not belong to a source.

    Args:
        source: names the folders.
        codes: the store to be trained on.
        records: the prepared data to be trained on.
        fingerprint: of the image tokenizer inside the model.
        model: its folder.

    Raises:
        UserError: for codes of another tokenizer or of other images, and for a damaged shard.
    """
    if codes.manifest.tokenizer_fingerprint != fingerprint:
        raise UserError(
            f"The codes in {source.codes} were made by another tokenizer than the one inside "
            f"{model}: extract codes with that tokenizer, or init the model with the other."
        )
    # Two folders of images may both hold a 0001.png, so the records' names alone prove nothing.
    if codes.manifest.data_fingerprint != records.fingerprint:
        raise UserError(
            f"The codes in {source.codes} were extracted from other data than {source.data}, or "
            f"that was prepared anew since: extract codes from {source.data}."
        )
    if is_main_rank():
        codes.verify()


def refuse_other_run(out: Path, stores: list[CodeStore]) -> None:
    """Refuse to go on with a run, if there is one in `out`, by other codes than it began with.

    The model in a checkpoint holds the tokenizer that its codes were made by.
    """
    path = out / "codes.json"
    mine: dict[str, Any] = {
        "tokenizer_fingerprint": _joined(s.manifest.tokenizer_fingerprint for s in stores),
        "data_fingerprint": _joined(s.manifest.data_fingerprint for s in stores),
        "num_crops": _joined(str(s.num_crops) for s in stores),
    }
    if path.is_file() and any((out / "checkpoints").glob("checkpoint-*")):
        changed = [
            key.replace("_", " ")
            for key, value in read_json(path).items()
            if mine.get(key) != value
        ]
        if changed:
            raise UserError(
                f"The run in {out} began with codes of another {' and '.join(changed)}: give "
                f"another `out`, or delete {out}."
            )
    elif is_main_rank():
        write_json(path, mine)


def _joined(values: Iterable[str]) -> str:
    return " ".join(values)
