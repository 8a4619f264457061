"""Whether codes may be trained on: of the model's own image tokenizer, of these images, whole.

Nothing else would tell: codes of another tokenizer are integers of the same range, and the loss
falls on them as well.
"""

from pathlib import Path

from data_pipelines.dataset import PreparedDataset
from mllm.training_config import MLLMPhaseConfig
from semhitok.errors import UserError
from semhitok.ranks import is_main_rank
from semhitok.run import read_json, write_json
from tokenizer.code_shards import CodeStore


def refuse_wrong_codes(
    codes: CodeStore, records: PreparedDataset, fingerprint: str, config: MLLMPhaseConfig
) -> None:
    """Refuse codes that do not belong to this run.

    Args:
        codes: the store to be trained on.
        records: the prepared data to be trained on.
        fingerprint: of the image tokenizer inside the model.
        config: names the folders; a run in `config.out` with a checkpoint goes on only with the
            codes that it began with.

    Raises:
        UserError: for codes of another tokenizer or of other images, and for a damaged shard.
    """
    if codes.manifest.tokenizer_fingerprint != fingerprint:
        raise UserError(
            f"The codes in {config.codes} were made by another tokenizer than the one inside "
            f"{config.model}: extract codes with that tokenizer, or init the model with the other."
        )
    # Two folders of images may both hold a 0001.png, so the records' names alone prove nothing.
    if codes.manifest.data_fingerprint != records.fingerprint:
        raise UserError(
            f"The codes in {config.codes} were extracted from other data than {config.data}, or "
            f"that was prepared anew since: extract codes from {config.data}."
        )
    _refuse_other_run(config.out, codes)
    if is_main_rank():
        codes.verify()


def _refuse_other_run(out: Path, codes: CodeStore) -> None:
    """The model in a checkpoint holds the tokenizer that its codes were made by."""
    path = out / "codes.json"
    mine = {
        "tokenizer_fingerprint": codes.manifest.tokenizer_fingerprint,
        "data_fingerprint": codes.manifest.data_fingerprint,
        "num_crops": codes.num_crops,
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
