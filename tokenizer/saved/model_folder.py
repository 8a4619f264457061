"""Models on disk: a folder is written whole or not at all, and read with errors of one sentence."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn

from runtime.errors import UserError, says
from runtime.files import read_json
from runtime.ranks import is_main_rank
from runtime.resume import run_lock
from runtime.run_folder import make_folder
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.history import add_phase

_WRITTEN_BY = "a training phase wrote, such as runs/quickstart/decoder/model"


def save_tokenizer(
    model: SemHiTokModel, folder: Path, trained: dict[str, Any] | None = None
) -> None:
    """Write a model folder; see `SemHiTokModel.save_pretrained`.

    Args:
        model: a whole tokenizer or a half.
        folder: created where it is missing.
        trained: `phase_record` of the phase that has just ended.
    """
    if trained is not None:
        add_phase(model.config, trained)
    refuse_nonfinite(model, f"the model for {folder}")
    with whole_folder(folder) as unfinished:
        model.save_pretrained(unfinished)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` to write a model into; at the end its files go to their place.

    Inside, since `folder` may be a mounted disk, and nothing is renamed from one disk to another.

    A killed run leaves the old model or the new one, or a folder without config.json, which is no
    model. Other files in `folder` stay. Every rank may enter; rank 0 moves the files.

    Raises:
        UserError: if the folder cannot be written, or another process is writing to it.
    """
    folder = Path(folder).resolve()
    unfinished = folder / ".unfinished"
    with run_lock(folder):
        try:
            if is_main_rank():
                shutil.rmtree(unfinished, ignore_errors=True)  # of a killed run
            yield make_folder(unfinished)
            if is_main_rank():
                _move(unfinished, folder)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"cannot write {folder}: {says(error)}; free some space, or choose another folder"
            ) from error
        finally:
            if is_main_rank():
                shutil.rmtree(unfinished, ignore_errors=True)


def _move(unfinished: Path, folder: Path) -> None:
    """Put the files of a model into their place."""
    make_folder(folder)
    # safetensors makes files that only their owner may read.
    mode = (unfinished / "config.json").stat().st_mode
    # The config goes first and comes back last: without it the folder is no model.
    (folder / "config.json").unlink(missing_ok=True)
    for old in folder.glob("*.safetensors*"):  # shards of another size would be read as well
        old.unlink()
    for path in sorted(unfinished.iterdir(), key=lambda path: path.name == "config.json"):
        if path.is_dir():  # further chat templates
            shutil.rmtree(folder / path.name, ignore_errors=True)
        else:
            path.chmod(mode)
        os.replace(path, folder / path.name)


def refuse_nonfinite(model: nn.Module, name: str) -> None:
    """Refuse a model with infinite weights or NaNs, naming the first in a `UserError`."""
    for weight, value in model.state_dict().items():
        if not value.is_floating_point() or value.is_meta or not value.numel():
            continue
        # In one pass, without a copy: both ends are NaN where any value is.
        ends = torch.stack(torch.aminmax(value))
        if not torch.isfinite(ends).all():
            raise UserError(
                f"{name} has weights that are not finite ({weight}): its training diverged, or the "
                f"file is damaged; train it again with a lower learning rate, or give another"
            )


def load_tokenizer(
    folder: Path | str, needs: Literal["both", "encoder", "decoder"] = "both"
) -> SemHiTokModel:
    """A saved SemHiTok model.

    Args:
        folder: as `save_tokenizer` wrote it.
        needs: what it will be used for; an exported half serves for its own use alone.

    Raises:
        UserError: if there is no tokenizer, it is damaged, or it is the wrong half.
    """
    config = tokenizer_config(folder)
    if config.half not in ("both", needs):
        cannot = "decode codes" if config.half == "encoder" else "encode images"
        raise UserError(
            f"{folder} holds the {config.half} half of a tokenizer, which cannot {cannot}; give "
            f"the folder of the whole one"
        )
    return load_whole(folder, SemHiTokModel, "an image tokenizer", _WRITTEN_BY)


def tokenizer_config(folder: Path | str) -> SemHiTokConfig:
    """The config of a saved tokenizer, without its weights."""
    return read_config(Path(folder), SemHiTokConfig, "an image tokenizer", _WRITTEN_BY)


def load_whole(
    folder: Path | str, model_class: Any, kind: str, written_by: str, **options: Any
) -> Any:
    """A saved model of one of our classes, with all of its weights and no others.

    Args:
        folder: where it was saved.
        model_class: the class, which names its config class.
        kind: what it is, with its article, for errors.
        written_by: who writes such folders and an example of one, for errors.
        options: of `from_pretrained`.

    Raises:
        UserError: if the folder holds no model, one of another kind, or one that is damaged.
    """
    folder = Path(folder)
    read_config(folder, model_class.config_class, kind, written_by)
    misfit = f"the weights in {folder} do not fit its config.json"
    try:
        model, found = model_class.from_pretrained(
            folder,
            use_safetensors=True,  # pickles are never read
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **options,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(f"{misfit} (another shape, or a broken file): {says(error)}") from error
    # transformers only warns of these, and fills the gaps with random weights.
    misfits = [
        f"{name} is {tuple(is_)}, not {tuple(wanted)}"
        for name, is_, wanted in sorted(found["mismatched_keys"])
    ]
    misfits += [f"{name} is missing" for name in sorted(found["missing_keys"])]
    misfits += [f"{name} is unknown" for name in sorted(found["unexpected_keys"])]
    if misfits:
        raise UserError(f"{misfit} (another shape): {misfits[0]}")
    refuse_nonfinite(model, str(folder))
    return model


def read_config(folder: Path, config_class: Any, kind: str, written_by: str) -> Any:
    """The config of a folder; a `UserError` if there is none of the class."""
    path, give = folder / "config.json", f"give the `model` folder that {written_by}"
    if not path.is_file():
        raise UserError(f"{folder} holds no model (no config.json); {give}")
    try:
        values = read_json(path)
    except UserError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    model_type = values.get("model_type") if isinstance(values, dict) else None
    if model_type != config_class.model_type:
        raise UserError(f"{folder} holds a {model_type!r} model, not {kind}; {give}")
    try:
        return config_class.from_pretrained(folder)
    except Exception as error:  # strict dataclasses raise their own types, odd JSON a TypeError
        raise UserError(f"{path} cannot be read: {says(error)}") from error
