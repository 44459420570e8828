"""Masks as training is given them: polygons drawn at the size they are used at."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from ablations.data.batches import Sides, train_batches
from ablations.data.dataset import DetectionDataset
from ablations.evaluation import masks
from ablations.evaluation.masks import encode_bitmaps
from detnet.detection.batch import resize

HEIGHT, WIDTH = 48, 64
SIZES = [(24, 100), (32, 40), (31, 64), (48, 64), (77, 200)]
"""Short and long sides: smaller, held back by the long side, uneven, as it is, larger."""


class OneImage(DetectionDataset):
    """An image of 64 x 48 pixels with one category."""

    sizes = np.array([[HEIGHT, WIDTH]])
    categories = [{"id": 1, "name": "one"}]  # noqa: RUF012
    has_masks = True

    def __init__(self, *segmentations):
        self.segmentations = segmentations

    def __len__(self):
        return 1

    def example(self, index):
        box = {"bbox": [0, 0, 64, 48], "area": 9, "category_id": 1, "iscrowd": 0}
        image = {"id": 1, "width": WIDTH, "height": HEIGHT, "file_name": "1.png"}
        return (
            np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8),
            image,
            [{**box, "segmentation": each} for each in self.segmentations],
        )


def blob(seed: int, radius: float = 20) -> list[float]:
    """A polygon around the middle of the image."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
    lengths = radius * rng.uniform(0.4, 1.2, 12)
    points = np.stack([32 + lengths * np.cos(angles), 24 + lengths * np.sin(angles)], axis=1)
    return points.round(2).ravel().tolist()


def trained(dataset: OneImage, sides: tuple[int, int]) -> torch.Tensor:
    return resize(dataset.sized(0, *sides), *sides)[1]["masks"]


@pytest.mark.parametrize("sides", SIZES)
def test_polygons_are_drawn_at_the_used_size(sides):
    parts = [[blob(0)], [blob(1, 8), blob(2, 3)], None]
    got = trained(OneImage(*parts), sides)
    height, width = got.shape[1:]
    assert height == sides[0] or width == sides[1]
    for mask, polygons in zip(got, parts[:2], strict=False):
        moved = [np.reshape(p, (-1, 2)) * (width / WIDTH, height / HEIGHT) for p in polygons]
        rles = coco_mask.frPyObjects([p.ravel().tolist() for p in moved], height, width)
        assert np.array_equal(mask, coco_mask.decode(rles).max(axis=2))
    assert not got[2].any()


def test_they_are_nearer_to_what_a_pixel_is_covered_by_than_the_nearest_pixel_is():
    polygons = [[blob(seed, 6)] for seed in range(20)]
    drawn = trained(OneImage(*polygons), (12, 16)).double()
    runs = [encode_bitmaps(masks.rasterize([p], WIDTH, HEIGHT))[0] for p in polygons]
    nearest = trained(OneImage(*runs), (12, 16)).double()
    fine = masks.rasterize([masks.scaled(p, (8, 8)) for p in polygons], 8 * WIDTH, 8 * HEIGHT)
    covered = F.avg_pool2d(torch.from_numpy(fine).double(), 32)
    assert (drawn - covered).abs().sum() < 0.8 * (nearest - covered).abs().sum()


@pytest.mark.parametrize("sides", SIZES)
def test_masks_of_runs_are_resized_to_the_nearest_pixel(sides):
    bitmaps = masks.rasterize([[blob(0)], [blob(1, 8)]], WIDTH, HEIGHT)
    got = trained(OneImage(*encode_bitmaps(bitmaps)), sides)
    expected = F.interpolate(torch.from_numpy(bitmaps)[None], got.shape[1:], mode="nearest")[0]
    assert torch.equal(got, expected)


@pytest.mark.parametrize("turned", [False, True])
def test_a_mirrored_image_has_mirrored_masks(turned):
    dataset = OneImage([blob(3)])
    straight = trained(dataset, (24, 100))
    for batch in (
        next(train_batches(dataset, 1, seed, sides=Sides([24], 100))) for seed in range(9)
    ):
        got = batch.targets.masks[0, :24, :32]
        if torch.equal(got, straight[0].flip(-1) if turned else straight[0]):
            return
    pytest.fail("never seen")


def test_a_drawing_that_grows_too_large_is_made_at_the_images_own_size(monkeypatch):
    monkeypatch.setattr(masks, "MAX_OUTLINE", 200)
    polygon = [blob(4)]
    assert masks.outline_fault(polygon) is None
    own = torch.from_numpy(masks.rasterize([polygon], WIDTH, HEIGHT))
    got = trained(OneImage(polygon), (480, 640))
    assert torch.equal(got, F.interpolate(own[None], (480, 640), mode="nearest")[0])
    assert trained(OneImage([blob(4)]), (24, 32)).shape == (1, 24, 32)


def test_an_image_without_objects_has_no_mask():
    assert trained(OneImage(), (24, 100)).shape == (0, 24, 32)
