"""Code extraction as a call with arguments, for tests."""

from pathlib import Path

from tokenizer.extraction.extract import extract_codes
from tokenizer.extraction.settings import ExtractCodesSettings


def extract(tokenizer, data, out, **options) -> Path | str:
    """What `semhitok extract-codes` writes."""
    return extract_codes(ExtractCodesSettings(tokenizer=tokenizer, data=data, out=out, **options))
