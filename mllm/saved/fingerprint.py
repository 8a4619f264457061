"""Which model drew or answered: a hash over everything in its folder that decides it."""

from pathlib import Path

from runtime.files import file_sha256, fingerprint

SUFFIXES = (".safetensors", ".json", ".jinja", ".model")


def model_fingerprint(folder: Path | str) -> str:
    """Hex SHA-256 over the weights, configs and text tokenizer of a model's folder."""
    return fingerprint(
        f"{path.name} {file_sha256(path)}\n"
        for path in sorted(Path(folder).iterdir())
        if path.suffix in SUFFIXES and path.is_file()
    )
