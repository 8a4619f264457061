"""Objects in an image by a Mask2Former of transformers, for GenEval's rule.

The official detector is mmdet's `mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco`, whose packages no
longer build. Ours has the same architecture and data, other code before and behind it, and scores
by it are labelled: not the official detector.
"""

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

from eval.drawing.geneval_rule import THRESHOLD, Detection
from eval.measures.pretrained import frozen, load_pretrained, short_name

DEFAULT = "facebook/mask2former-swin-small-coco-instance"
NOTE = "not the official detector"
NAMES = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
"""COCO's classes that GenEval's prompts call otherwise."""


class Detector:
    """An instance segmentation model, by hub name or folder.

    Raises:
        UserError: if there is no such model.
    """

    def __init__(self, name: str = DEFAULT):
        hint = "give a Mask2Former's folder or a hub name that can be downloaded"
        classes = (AutoImageProcessor, Mask2FormerForUniversalSegmentation)
        self.processor, model = load_pretrained("detector", name, hint, *classes)
        self.model = frozen(model)
        self.device = self.model.device
        self.label = f"{short_name(name)} ({NOTE})"

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> list[Detection]:
        """Every object that GenEval's threshold lets through, with box and mask."""
        inputs = self.processor(images=image.convert("RGB"), return_tensors="pt").to(self.device)
        outputs = self.model(**inputs)
        found = self.processor.post_process_instance_segmentation(
            outputs, threshold=THRESHOLD, target_sizes=[image.size[::-1]], return_binary_maps=True
        )[0]
        if found["segmentation"] is None or not found["segments_info"]:
            return []
        masks = found["segmentation"].cpu().numpy().astype(bool)
        detections = []
        for info, mask in zip(found["segments_info"], masks, strict=True):
            if mask.any():
                label = self.model.config.id2label[int(info["label_id"])]
                score = float(info["score"])
                detections.append(Detection(NAMES.get(label, label), score, box_of(mask), mask))
        return detections


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of an (H, W) mask; right and bottom lie behind the last pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
