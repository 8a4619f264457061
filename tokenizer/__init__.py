"""The SemHiTok image tokenizer: `SemHiTokModel`, `SemHiTokConfig`, `SemHiTokImageProcessor`.

Importing it registers them with transformers' Auto classes: after `import tokenizer`,
`AutoModel.from_pretrained(FOLDER)` and `AutoImageProcessor.from_pretrained(FOLDER)` load them.
"""

from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.image_processing_semhitok import SemHiTokImageProcessor
from tokenizer.model.modeling_semhitok import ImageCodes, SemHiTokModel

__all__ = ["ImageCodes", "SemHiTokConfig", "SemHiTokImageProcessor", "SemHiTokModel"]
