"""Commands that train, describe and use the image tokenizer."""

from semhitok.command import Command

_TOKENIZER = "runs/quickstart/decoder/model"
_DATA = "runs/quickstart/data/test"


def _train(phase: str, about: str, settings: str, folder: str = "quickstart") -> Command:
    return Command(
        name=f"train {phase}",
        about=about,
        example=f"semhitok train {phase} --config configs/{folder}/{phase}.yaml",
        settings=f"tokenizer.training.settings:{settings}",
        function="tokenizer.training.train:train_phase",
        yaml=True,
    )


COMMANDS = (
    _train("teacher", "train a small SigLIP on image-caption pairs", "TeacherPhaseSettings"),
    _train(
        "semantic", "train the semantic codebook on a teacher's features", "SemanticPhaseSettings"
    ),
    _train(
        "pixel", "train the pixel sub-codebooks on a frozen semantic half", "PixelPhaseSettings"
    ),
    _train("decoder", "train the Enhance Decoder on frozen codebooks", "DecoderPhaseSettings"),
    _train(
        "joint",
        "train both levels of codes at once, for comparison",
        "JointPhaseSettings",
        folder="ablation",
    ),
    Command(
        name="extract-codes",
        about="turn prepared images into shards of image codes",
        example=f"semhitok extract-codes --tokenizer {_TOKENIZER} --data {_DATA} "
        "--out runs/codes-test",
        settings="tokenizer.extraction.settings:ExtractCodesSettings",
        function="tokenizer.extraction.extract:extract_codes",
    ),
    Command(
        name="reconstruct",
        about="encode images and decode them again",
        example=f"semhitok reconstruct --tokenizer {_TOKENIZER} "
        "runs/quickstart/images/test-0.png --out runs/reconstructed",
        settings="tokenizer.extraction.settings:ReconstructSettings",
        function="tokenizer.extraction.reconstruct:reconstruct",
    ),
    Command(
        name="describe",
        about="print the sizes of an image tokenizer: parameters by part, codes, tokens",
        example=f"semhitok describe --tokenizer {_TOKENIZER}",
        settings="tokenizer.training.settings:DescribeSettings",
        function="tokenizer.training.describe:describe",
    ),
    Command(
        name="export-tokenizer",
        about="write the encoder half or the decoder half of an image tokenizer alone",
        example=f"semhitok export-tokenizer --tokenizer {_TOKENIZER} --half encoder "
        "--out runs/encoder",
        settings="tokenizer.saved.settings:ExportTokenizerSettings",
        function="tokenizer.saved.halves:export_tokenizer",
    ),
)
