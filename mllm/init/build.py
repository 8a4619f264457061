"""Build a unified model once, offline: language model + image tokenizer + new weights.

    semhitok init-mllm --config configs/quickstart/init_mllm.yaml

The language model's embeddings and head are not touched, and no matrix is resized: image tokens
have their own adapter and head, which begin from the codebooks.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig, set_seed

from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.init.architecture import refuse_other_architecture, refuse_other_logits
from mllm.init.language_model import make_language_model, special_token_ids
from mllm.init.settings import InitSettings
from mllm.init.start_from_codebooks import start_from_codebooks
from mllm.model.chat_template import IMAGE_TOKENS
from mllm.model.configuration_unified import UnifiedConfig
from mllm.model.processing_unified import UnifiedProcessor
from runtime.errors import UserError, says
from runtime.memory import require_memory
from runtime.run_folder import make_folder
from runtime.settings import to_dict
from tokenizer.model.image_processing_semhitok import image_processor
from tokenizer.saved.model_folder import load_tokenizer, whole_folder

OWN_FIELDS = ("image_input", "image_head", "image_positions", "z_loss_weight")


def init_mllm(settings: InitSettings) -> Path:
    """Write the model folder that training starts from."""
    make_folder(settings.out)
    image_tokenizer = load_tokenizer(settings.tokenizer)
    set_seed(settings.seed)
    text_tokenizer, text_config, language_model = make_language_model(settings)
    begin, end, image = text_tokenizer.convert_tokens_to_ids(list(IMAGE_TOKENS))
    # Whatever the LM was saved in: optimisers keep float32, and two dtypes in one model do not mix.
    text_config.dtype = torch.float32
    config = unified_config(
        settings,
        text_config,
        image_tokenizer.config,
        begin_of_image_token_id=begin,
        end_of_image_token_id=end,
        image_token_id=image,
        image_sampler=to_dict(settings.sampler),
    )
    try:
        with torch.device("meta"):
            size = UnifiedForConditionalGeneration(config).num_parameters()
        require_memory(4 * size, f"a model of {size:,} parameters", "choose smaller sizes")
        model = UnifiedForConditionalGeneration(config)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"no unified model can be built on a {text_config.model_type!r} model: {says(error)}"
        ) from error
    model.image_tokenizer.load_state_dict(image_tokenizer.state_dict())
    if language_model is not None:
        model.language_model.load_state_dict(language_model.state_dict())
    refuse_other_architecture(model)
    if language_model is not None:
        refuse_other_logits(model)
    if settings.new_weights == "codebooks":
        start_from_codebooks(model, settings.seed)
    model.generation_config = GenerationConfig(**special_token_ids(text_tokenizer))
    processor = UnifiedProcessor(
        image_processor(image_tokenizer.config), text_tokenizer, config.num_image_positions
    )
    with whole_folder(settings.out) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
    return settings.out


def unified_config(
    settings: InitSettings,
    text_config: PreTrainedConfig,
    image_tokenizer_config: PreTrainedConfig,
    **fields: Any,
) -> UnifiedConfig:
    """The model's config, of those of its parts and other `fields`."""
    return UnifiedConfig(
        text_config=text_config.to_dict(),
        image_tokenizer_config=image_tokenizer_config.to_dict(),
        tie_word_embeddings=text_config.tie_word_embeddings,
        **{name: getattr(settings, name) for name in OWN_FIELDS},
        **fields,
    )
