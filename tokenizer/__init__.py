"""The SemHiTok image tokenizer: `SemHiTokModel`, `SemHiTokConfig`, `SemHiTokImageProcessor`.

Importing it registers them with transformers' Auto classes: after `import tokenizer`,
`AutoModel.from_pretrained(FOLDER)` and `AutoImageProcessor.from_pretrained(FOLDER)` load them.
"""

from tokenizer.configuration_semhitok import SemHiTokConfig
from tokenizer.image_processing_semhitok import SemHiTokImageProcessor
from tokenizer.modeling_semhitok import ImageCodes, SemHiTokModel

__all__ = ["ImageCodes", "SemHiTokConfig", "SemHiTokImageProcessor", "SemHiTokModel"]
