"""Whether every record that may be trained on fits into a sequence, before the first step.

Most texts are so short that their bytes alone prove it: no token is shorter than a byte. Only the
others are rendered.

Shapes: N tokens of an image.
"""

from collections.abc import Iterable

from data_pipelines.records import IMAGE_MARK, RecordText
from mllm.data.documents import conversation_document, drawing_document, question_document
from mllm.data.settings import MixtureSettings
from mllm.data.sources import NOUNS, TrainingSource, image_names, question_pairs
from mllm.model.chat_template import ChatEncoder
from runtime.errors import UserError


def refuse_misfits(
    task: str,
    sources: Iterable[tuple[TrainingSource, list[tuple[int, int]]]],
    chat: ChatEncoder,
    mixture: MixtureSettings,
    max_seq_length: int,
    context: int | None,
) -> None:
    """Refuse records of which no document, or not every one, could be trained on.

    Args:
        task: of `TASKS`.
        sources: each with its (record, conversation) items for the task.
        chat: renders the template.
        mixture: says how questions share an image.
        max_seq_length: tokens of a sequence.
        context: tokens that the language model reads at most.

    Raises:
        UserError: naming the longest record, with what to do.
    """
    limit = min(max_seq_length, context or max_seq_length)
    longest, name, count = 0, "", 0
    for source, items in sources:
        for number, item in items:
            record = source.records[number]
            length = _tokens(task, record, item, chat, mixture, limit)
            count += length > limit
            if length > longest:
                longest, name = length, record.record_id
    if longest <= limit:
        return
    advice = f"raise max_seq_length to at least {longest}"
    if context is not None and longest > context:
        advice = (
            f"the language model reads at most {context:,}: leave them out of the prepared data, "
            f"or choose another llm"
        )
    raise UserError(
        f"{count:,} {'record has' if count == 1 else 'records have'} a {NOUNS[task]} that takes "
        f"more than {limit:,} tokens with its images, the most {name!r} with {longest:,}; {advice}"
    )


def _tokens(
    task: str,
    record: RecordText,
    item: int,
    chat: ChatEncoder,
    mixture: MixtureSettings,
    limit: int,
) -> int:
    """Tokens of the record's smallest document, or of its largest where chance decides.

    At most `limit` where that is proven without rendering anything.
    """
    image = range(chat.num_image_positions)
    if task == "question":
        pairs = question_pairs(record.questions)
        # As a shared prefix an image needs one question that fits; as turns, each may be the first.
        choose = min if mixture.several_questions == "shared_prefix" else max
        if choose(chat.most_tokens(pair, 1) for pair in pairs) <= limit:
            return 0
        return choose(len(question_document(chat, image, [pair])) for pair in pairs)
    if task == "drawing":
        if max(chat.most_tokens([caption], 1) for caption in record.captions) <= limit:
            return 0
        return max(len(drawing_document(chat, caption, image)) for caption in record.captions)
    if task == "conversation":
        messages = [(m.role, m.content) for m in record.conversations[item].messages]
        names = image_names(record, item)
        marks = sum(content.count(IMAGE_MARK) for _, content in messages)
        if marks != len(names):
            raise UserError(
                f"a conversation of {record.record_id!r}: {marks} image marks, but {len(names)} "
                f"images"
            )
        roles = [role for role, _ in messages]
        until = roles.index("assistant") + 1 if "assistant" in roles else len(roles)
        first = [content for _, content in messages[:until]]
        if chat.most_tokens(first, sum(text.count(IMAGE_MARK) for text in first)) <= limit:
            return 0
        return len(conversation_document(chat, messages, [image] * len(names), max_length=limit))
    return 0  # plain text is cut
