"""Train a sentencepiece vocabulary and wrap it as a stock Hugging Face text tokenizer."""

import io
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from runtime.errors import UserError
from runtime.files import write_bytes

MARKS = {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>"}  # ids 0, 1, 2, 3


def train_text_tokenizer(
    texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()
) -> PreTrainedTokenizerBase:
    """Train byte-pair pieces with byte fallback: no text is ever unknown.

    Args:
        texts: what to count pieces in; repeated sentences count as often as they come.
        vocab_size: upper bound; a small corpus yields fewer pieces. One too small for the single
            characters is a `UserError`.
        special_tokens: further tokens that are never split, appended after the pieces.

    Returns:
        A text tokenizer that `AutoTokenizer` loads again after `save_pretrained`; it pads on the
        left.
    """
    marks: dict[str, Any] = {f"{name}_id": number for number, name in enumerate(MARKS)}
    marks |= {f"{name}_piece": piece for name, piece in MARKS.items()}
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=1.0,
            **marks,
            num_threads=1,  # the pieces are then the same on every machine
            minloglevel=2,
        )
    except RuntimeError as error:  # sentencepiece says where in its source, and little else
        raise UserError(
            f"No text vocabulary of at most {vocab_size} pieces can be made: 256 bytes, 4 marks "
            f"and every character of the texts are pieces, so raise vocab_size."
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        write_bytes(Path(folder) / "tokenizer.model", model.getvalue())
        # `legacy` marks the first word of each stretch between special tokens, not of the text
        # alone: "what" is then one token in "what ..." and in "<|user|>what ...".
        read = LlamaTokenizer.from_pretrained(folder, pad_token=MARKS["pad"], legacy=True)
    # A `LlamaTokenizer` would forget `legacy` when saved; this class cuts as its file says.
    text_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=read.backend_tokenizer,
        padding_side=read.padding_side,
        model_input_names=read.model_input_names,
        **{f"{name}_token": piece for name, piece in MARKS.items()},
    )
    if special_tokens:
        text_tokenizer.add_special_tokens({"additional_special_tokens": list(special_tokens)})
    return text_tokenizer
