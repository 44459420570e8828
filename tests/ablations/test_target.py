"""What a data set gives a detector to train on."""

import numpy as np
import torch

from ablations.data.batches import flip_horizontally
from ablations.data.dataset import DetectionDataset
from ablations.tasks.detection import DetectionTask
from detnet.detection import collate

SQUARE = [[2, 2, 6, 2, 6, 6, 2, 6]]


class OneImage(DetectionDataset):
    """An image of 20 x 10 pixels with the annotations it is given."""

    sizes = np.array([[10, 20]])
    categories = [{"id": 7, "name": "seven"}, {"id": 9, "name": "nine"}]  # noqa: RUF012

    def __init__(self, *annotations, has_masks=True):
        self.given = list(annotations)
        self.has_masks = has_masks

    def __len__(self):
        return 1

    def example(self, index):
        image = {"id": 1, "width": 20, "height": 10, "file_name": "1.png"}
        return np.zeros((10, 20, 3), dtype=np.uint8), image, self.given


def annotation(bbox, *, category_id=7, iscrowd=0, segmentation=None):
    return {
        "bbox": bbox,
        "category_id": category_id,
        "iscrowd": iscrowd,
        "area": bbox[2] * bbox[3],
        "segmentation": segmentation,
    }


DATASET = OneImage(
    annotation([2, 2, 4, 4], segmentation=SQUARE),
    annotation([10, 1, 20, 20], iscrowd=1),
    annotation([1, 1, 8, 8], category_id=9),
)


def test_crowds_are_ignored_boxes_and_no_objects():
    _, target = DATASET[0]
    assert target["boxes"].tolist() == [[2, 2, 6, 6], [1, 1, 9, 9]]
    assert target["labels"].tolist() == [1, 2]
    assert target["ignored_boxes"].tolist() == [[10, 1, 20, 10]]  # clipped to the image


def test_an_object_without_a_mask_keeps_its_box_and_says_so():
    _, target = DATASET[0]
    assert target["has_mask"].tolist() == [True, False]
    assert target["masks"].shape == (2, 10, 20)
    assert target["masks"][0, 2:6, 2:6].all()
    assert target["masks"].flatten(1).sum(1).tolist() == [16, 0]
    _, turned = OneImage(*reversed(DATASET.given))[0]
    assert turned["has_mask"].tolist() == [False, True]
    assert turned["masks"].flatten(1).sum(1).tolist() == [0, 16]


def test_without_masks_nothing_is_said_of_them():
    _, target = OneImage(annotation([2, 2, 4, 4]), has_masks=False)[0]
    assert not {"masks", "has_mask"} & target.keys()
    assert target["ignored_boxes"].shape == (0, 4)


def test_an_image_may_hold_nothing_but_a_crowd():
    _, target = OneImage(annotation([2, 2, 4, 4], iscrowd=1))[0]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 10, 20)
    assert len(target["ignored_boxes"]) == 1


def test_a_flip_mirrors_what_is_ignored_too():
    image, target = DATASET[0]
    _, flipped = flip_horizontally(image, target)
    assert flipped["ignored_boxes"].tolist() == [[0, 1, 10, 10]]
    assert target["ignored_boxes"].tolist() == [[10, 1, 20, 10]]


def test_training_hands_all_of_it_to_the_model():
    given = []

    def model(batch):
        given.append(batch.targets)
        return {"loss": torch.zeros(())}

    task = DetectionTask(config=None, train=DATASET, val=DATASET)
    task.losses(model, collate([DATASET[0]]), torch.device("cpu"))
    _, target = DATASET[0]
    (targets,) = given
    assert torch.equal(targets.boxes[0, :2], target["boxes"])
    assert targets.labels[0].tolist() == [1, 2, 0, 0, 0, 0, 0, 0]
    assert torch.equal(targets.ignored_boxes[0, :1], target["ignored_boxes"])
    assert targets.has_mask[0, :2].tolist() == [True, False]
    assert torch.equal(targets.masks[:2, :10, :20], target["masks"])
