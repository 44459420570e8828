"""A batch holds every image and every object, padded, and nothing else that counts."""

import pickle

import pytest
import torch
from torch.nn import functional as F

from detnet.detection import collate, resize
from detnet.detection.batch import size_within


def example(height=40, width=50, num_objects=2, num_ignored=0, **extra):
    boxes = (
        torch.tensor([[1.0, 2, 11, 22]]).repeat(num_objects, 1) + torch.arange(num_objects)[:, None]
    )
    target = {
        "boxes": boxes,
        "labels": torch.arange(num_objects) + 1,
        "ignored_boxes": torch.ones(num_ignored, 4) * torch.tensor([0, 0, 5, 5]),
        "masks": torch.ones(num_objects, height, width, dtype=torch.uint8),
        **extra,
    }
    return torch.full((3, height, width), 200, dtype=torch.uint8), target


def test_images_and_objects_are_padded_and_marked():
    batch = collate([example(40, 50, 2, 1, image_id=7), example(70, 30, 9), example(num_objects=0)])
    assert batch.images.shape == (3, 3, 96, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.sizes.tolist() == [[40, 50], [70, 30], [40, 50]]
    assert (batch.images[0, :, :40, :50] == 200).all()
    assert batch.images[0].sum() == 200 * 3 * 40 * 50
    assert batch.image_ids == [7, 1, 2]
    targets = batch.targets
    assert targets.boxes.shape == (3, 16, 4)
    assert targets.is_object.sum(dim=1).tolist() == [2, 9, 0]
    assert targets.boxes[0, 1].tolist() == [2, 3, 12, 23]
    assert targets.labels[1, :9].tolist() == list(range(1, 10))
    assert targets.ignored_boxes.shape == (3, 8, 4)
    assert targets.ignored_boxes[0].sum() == 10
    assert targets.has_mask.sum(dim=1).tolist() == [2, 9, 0]


def test_masks_of_all_images_stand_one_after_another():
    first, second = example(40, 50, 1), example(70, 30, 2)
    second[1]["masks"][1] = 0
    batch = collate([first, second])
    assert batch.targets.masks.shape == (8, 96, 64)
    # with a row and a column more: RoIAlign reads half a pixel beyond the image
    assert batch.targets.masks.sum(dim=(1, 2)).tolist() == [41 * 51, 71 * 31, 0, 0, 0, 0, 0, 0]


def test_no_object_and_no_region_at_all():
    targets = collate([example(num_objects=0)]).targets
    assert not targets.is_object.any()
    assert targets.ignored_boxes.shape == (1, 0, 4)


def test_a_batch_can_be_sent():
    batch = collate([example(), example(num_objects=5)])
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.images, batch.images)
    assert torch.equal(again.targets.boxes, batch.targets.boxes)


def test_a_box_without_width_is_refused_by_image():
    flat = example(boxes=torch.tensor([[1.0, 1, 5, 5], [3, 3, 3, 9]]), image_id=12)
    with pytest.raises(ValueError, match=r"image 12: the box \[3.0, 3.0, 3.0, 9.0\] .*no width"):
        collate([flat])


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1066)),
        ((100, 130), (800, 1040)),
        ((100, 400), (333, 1333)),  # the long side decides
        ((800, 1333), (800, 1333)),
    ],
)
def test_the_short_side_is_met_unless_the_long_one_is_exceeded(size, expected):
    assert size_within(size, 800, 1333) == expected


def test_boxes_regions_and_masks_are_resized_with_their_image():
    image, target = example(40, 50, 1, 1)
    target["masks"][0, :, 25:] = 0
    image, target = resize((image, target), 80, 200)
    assert image.shape == (3, 80, 100)
    assert (image == 200).all()
    assert target["original_size"] == (40, 50)
    assert target["boxes"].tolist() == [[2, 4, 22, 44]]
    assert target["ignored_boxes"].tolist() == [[0, 0, 10, 10]]
    assert target["masks"].shape == (1, 80, 100)
    assert target["masks"][0, :, :50].all()
    assert not target["masks"][0, :, 50:].any()


def test_resized_bytes_are_the_resized_floats_rounded():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 60, 90), generator=generator, dtype=torch.uint8)
    resized, _ = resize((image, example(60, 90)[1]), 32, 64)
    exact = F.interpolate(image[None].float(), (32, 48), mode="bilinear", antialias=True)[0]
    assert (resized - exact).abs().max() <= 1


def test_an_image_resized_already_is_what_resizing_it_would_give():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 33, 50), generator=generator, dtype=torch.uint8)
    target = {**example(66, 100)[1], "original_size": (66, 100)}
    resized, target = resize((image, target), 33, 64)
    assert torch.equal(
        resized, F.interpolate(image[None], (33, 50), mode="bilinear", antialias=True)[0]
    )
    assert target["masks"].shape[1:] == (33, 50)
