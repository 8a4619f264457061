"""Train a sentencepiece vocabulary and wrap it as a stock Hugging Face text tokenizer."""

import io
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece
from transformers import LlamaTokenizer, PreTrainedTokenizerBase

PAD, UNKNOWN, BEGIN, END = "<pad>", "<unk>", "<s>", "</s>"  # ids 0, 1, 2, 3


def train_text_tokenizer(
    texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()
) -> PreTrainedTokenizerBase:
    """Train byte-pair pieces with byte fallback: no text is ever unknown.

    Args:
        texts: what to count pieces in; repeated sentences count as often as they come.
        vocab_size: upper bound; a small corpus yields fewer pieces.
        special_tokens: further tokens that are never split, appended after the pieces.

    Returns:
        A `LlamaTokenizer`, which `AutoTokenizer` loads again after `save_pretrained`.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        pad_piece=PAD,
        unk_piece=UNKNOWN,
        bos_piece=BEGIN,
        eos_piece=END,
        num_threads=1,  # the pieces are then the same on every machine
        minloglevel=2,
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.model").write_bytes(model.getvalue())
        text_tokenizer = LlamaTokenizer.from_pretrained(folder, pad_token=PAD)
    if special_tokens:
        text_tokenizer.add_special_tokens({"additional_special_tokens": list(special_tokens)})
    return text_tokenizer
