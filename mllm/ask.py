"""Answer questions about images, from Python; `mllm.ask_list` is the command."""

from pathlib import Path

import torch
from PIL import Image

from data_pipelines.dataset import PreparedDataset
from mllm.load import load_model, load_processor
from mllm.modeling_unified import UnifiedForConditionalGeneration
from mllm.processing_unified import UnifiedProcessor
from semhitok.errors import UserError
from semhitok.progress import Progress


def answer(
    model: UnifiedForConditionalGeneration,
    processor: UnifiedProcessor,
    images: list[Image.Image],
    questions: list[str],
    max_new_tokens: int = 16,
) -> list[str]:
    """Greedy answers to one question about each image.

    Raises:
        UserError: if a question with its image is longer than the model's context.
    """
    inputs = processor.questions(images, questions).to(model.device)
    _check_length(model, inputs["input_ids"].shape[1] + max_new_tokens)
    token_ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return processor.answers(token_ids, inputs["input_ids"].shape[1])


def _check_length(model: UnifiedForConditionalGeneration, length: int) -> None:
    context = getattr(model.config.text_config, "max_position_embeddings", None)
    if context is not None and length > context:
        raise UserError(
            f"The question with its image and answer takes {length} tokens, and the model reads "
            f"at most {context}: shorten the question."
        )


@torch.no_grad()
def answer_records(
    model_dir: Path | str,
    dataset: PreparedDataset,
    batch_size: int = 64,
    max_new_tokens: int = 16,
    progress: Progress | None = None,
) -> list[dict]:
    """Answer every question of a prepared folder.

    Args:
        model_dir: folder of a unified model.
        dataset: records with questions.
        batch_size: questions per batch.
        progress: told of every question answered.

    Returns:
        One dict per question: question_id, record_id, question, answers, prediction.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, processor = load_model(model_dir).to(device).eval(), load_processor(model_dir)
    asked: list[dict] = []
    codes: dict[int, torch.Tensor] = {}
    size = model.config.image_tokenizer_config.image_size
    for start in range(0, len(dataset), batch_size):
        rows = range(start, min(start + batch_size, len(dataset)))
        images = torch.stack([dataset.image_tensor(row, size) for row in rows]).to(device)
        codes |= dict(zip(rows, model.get_image_tokens(images), strict=True))
    for row in range(len(dataset)):
        record = dataset[row]
        for question in record.questions:
            asked.append(
                {
                    "question_id": question.question_id,
                    "record_id": record.record_id,
                    "question": question.question,
                    "answers": list(question.answers),
                    "row": row,
                }
            )
    # Questions of like length share a batch, which leaves little padding to compute on.
    prompts = [processor.chat.question(entry["question"]) for entry in asked]
    order = sorted(range(len(asked)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        inputs = processor.pad([prompts[index] for index in chosen])
        input_ids = inputs["input_ids"].to(device)
        _check_length(model, input_ids.shape[1] + max_new_tokens)
        images = torch.cat([codes[asked[index]["row"]] for index in chosen])
        input_ids = input_ids.masked_scatter(
            input_ids == model.config.image_token_id, images.to(input_ids.dtype)
        )
        token_ids = model.generate(
            input_ids=input_ids,
            attention_mask=inputs["attention_mask"].to(device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        texts = processor.answers(token_ids, input_ids.shape[1])
        for index, text in zip(chosen, texts, strict=True):
            asked[index]["prediction"] = text
        if progress is not None:
            progress.update(len(chosen))
    for entry in asked:
        del entry["row"]
    return asked
