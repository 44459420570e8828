"""Imported by the server that commands are forked from: loads the compiled kernels once for all."""

import torch

from ablations.tasks.detection import score
from detnet.detection.nms_cpu import best_kept

BOX = [2.0, 2.0, 8.0, 8.0]
SQUARE = [[2.0, 2.0, 10.0, 2.0, 10.0, 10.0, 2.0, 10.0]]
TRUTH = {
    "images": [{"id": 1, "file_name": "1.png", "width": 16, "height": 16}],
    "categories": [{"id": 1, "name": "square"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "area": 64.0, "iscrowd": 0,
         "segmentation": SQUARE},
    ],
}  # fmt: skip
RESULT = {"image_id": 1, "category_id": 1, "bbox": BOX, "score": 0.5, "segmentation": SQUARE}

score(TRUTH, [RESULT], with_masks=True)
best_kept(torch.zeros(1, 1, 4), torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64), 0.5, 1)
