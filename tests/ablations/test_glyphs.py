"""Glyphs: exact truth, filled size bins, and the same pixels wherever they are drawn."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from pycocotools.coco import COCO

from ablations.data import CocoData, GlyphsData, glyphs, open_data
from ablations.data.__main__ import main

SMALL = GlyphsData(num_train=12, num_val=6, image_size=96)

DIGEST = """
import hashlib, sys
from ablations.data import GlyphsData, glyphs
config = GlyphsData(num_train=12, num_val=6, image_size=96)
for index in map(int, sys.argv[1:]):
    print(hashlib.sha256(b"".join(p.tobytes() for p in glyphs.draw(config, "train", index)[::2]))
          .hexdigest())
"""


def digest(config: GlyphsData, index: int) -> str:
    pixels, _, masks = glyphs.draw(config, "train", index)
    return hashlib.sha256(pixels.tobytes() + masks.tobytes()).hexdigest()


def test_another_process_draws_the_same_in_any_order() -> None:
    ours = [digest(SMALL, index) for index in (0, 5, 11)]
    command = [sys.executable, "-c", DIGEST, "11", "5", "0"]
    root = Path(__file__).parents[2]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert theirs.stdout.split() == ours[::-1]
    assert len(set(ours)) == 3


def test_seed_split_and_index_make_the_image() -> None:
    other = GlyphsData(num_train=12, num_val=6, image_size=96, seed=1)
    assert digest(SMALL, 3) != digest(other, 3)
    train, val = (glyphs.draw(SMALL, split, 3)[0] for split in ("train", "val"))
    assert (train != val).any()


def test_more_images_leave_the_first_ones_as_they_are() -> None:
    assert digest(SMALL, 3) == digest(GlyphsData(num_train=99, image_size=96), 3)


def test_masks_are_disjoint_and_boxes_tight() -> None:
    dataset = open_data(SMALL, "train")
    for index in range(len(dataset)):
        image, target = dataset[index]
        assert image.shape == (3, 96, 96)
        assert (target["masks"].sum(0) <= 1).all()
        for mask, box, area in zip(target["masks"], target["boxes"], target["area"], strict=True):
            rows, columns = np.nonzero(mask.numpy())
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == corners
            assert area == mask.sum()


def test_mask_is_where_the_object_changed_the_picture() -> None:
    config = GlyphsData(image_size=96, max_objects=1, clutter=0, min_size=20)
    drawn = [glyphs.draw(config, "train", index) for index in range(8)]
    assert any(len(labels) for _, labels, _ in drawn)
    for pixels, labels, masks in drawn:
        ground = pixels[~masks.any(axis=0)].reshape(-1, 3)
        values, counts = np.unique(ground, axis=0, return_counts=True)
        different = (pixels != values[counts.argmax()]).any(axis=2)
        # all but the half-covered edge pixels outside the mask
        assert (different | ~masks.any(axis=0)).all()
        assert different.sum() < 1.4 * masks.sum() + 1
        assert len(labels) == len(masks)


def test_enough_of_each_object_stays_visible() -> None:
    config = GlyphsData(max_objects=8)
    for index in range(20):
        _, _, masks = glyphs.draw(config, "train", index)
        assert (masks.sum(axis=(1, 2)) >= 0.4 * config.min_size**2).all()


def test_every_size_and_category_is_well_filled() -> None:
    dataset = open_data(GlyphsData(num_val=60), "val")
    annotations = dataset.truth["annotations"]
    areas = np.array([a["area"] for a in annotations])
    shares = np.histogram(areas, [0, 32**2, 96**2, np.inf])[0] / len(areas)
    assert (shares > (0.3, 0.3, 0.06)).all()
    counts = np.bincount([a["category_id"] for a in annotations], minlength=11)[1:]
    assert (counts > 0.03 * len(annotations)).all()


def test_sizes_are_log_uniform_before_they_are_placed() -> None:
    config = GlyphsData()
    rng = np.random.default_rng(0)
    sizes = np.array([size for _ in range(2000) for _, size in glyphs._objects(rng, config)])
    low, high = np.log(config.min_size), np.log(config.max_size * config.image_size)
    shares = np.histogram(np.log(sizes), np.linspace(low, high, 11))[0] / len(sizes)
    assert np.abs(shares - 0.1).max() < 0.02


@pytest.mark.parametrize("name", [*glyphs.CATEGORIES, *glyphs.CLUTTER_LETTERS])
def test_outlines_have_the_area_they_are_scaled_to(name: str) -> None:
    contours = [contour * 60 for contour in glyphs.outline(name)]
    _, _, coverage = glyphs._coverage(contours, 100.3, 100.7)
    assert coverage.sum() / 255 == pytest.approx(3600, rel=0.04)


def test_truth_is_what_pycocotools_reads() -> None:
    dataset = open_data(SMALL, "val")
    coco = COCO()
    coco.dataset = json.loads(json.dumps(dataset.truth))
    coco.createIndex()
    for index in range(len(dataset)):
        _, target = dataset[index]
        annotations = coco.imgToAnns[target["image_id"]]
        assert len(annotations) == len(target["masks"])
        for annotation, mask in zip(annotations, target["masks"].numpy(), strict=True):
            assert (coco.annToMask(annotation) == mask).all()


def test_boxes_do_not_depend_on_masks() -> None:
    with_masks, without = (open_data(SMALL, "val", masks=masks) for masks in (True, False))
    assert "segmentation" not in without.truth["annotations"][0]
    assert "masks" not in without[0][1]
    assert [a["bbox"] for a in without.truth["annotations"]] == [
        a["bbox"] for a in with_masks.truth["annotations"]
    ]


def test_export_is_the_same_data_set(tmp_path: Path) -> None:
    fields = ["num_train=12", "num_val=6", "image_size=96"]
    assert main(["export", *fields, "--out", str(tmp_path / "glyphs")]) == 0
    written = CocoData(
        root=str(tmp_path / "glyphs"),
        train="annotations/instances_train.json",
        val="annotations/instances_val.json",
    )
    for split in ("train", "val"):
        drawn, read = open_data(SMALL, split), open_data(written, split)
        assert drawn.categories == read.categories
        assert drawn.truth == read.truth
        assert read.checks["faults"] == []
        for index in range(len(drawn)):
            (ours, our_target), (theirs, their_target) = drawn[index], read[index]
            assert (ours == theirs).all()
            assert (our_target["masks"] == their_target["masks"]).all()
    assert main(["export", *fields, "--out", str(tmp_path / "glyphs")]) == 2  # not empty


def test_fingerprint_follows_the_parameters() -> None:
    first = open_data(SMALL, "val").fingerprint
    assert open_data(GlyphsData(num_train=12, num_val=6, image_size=96), "val").fingerprint == first
    assert open_data(SMALL, "train").fingerprint != first
    assert open_data(SMALL, "val", max_images=3).fingerprint != first
    more_to_train = GlyphsData(num_train=99, num_val=6, image_size=96)
    assert open_data(more_to_train, "val").fingerprint == first


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_train", 0),
        ("image_size", 8),
        ("max_size", 0.01),
        ("seed", -1),
        ("clutter", -1.0),
        ("max_rotation", 181.0),
        ("categories", []),
        ("categories", ["ring", "disk"]),
        ("categories", ["B", "B"]),
    ],
)
def test_parameters_out_of_range_are_named(field: str, value: object) -> None:
    config = OmegaConf.to_object(OmegaConf.structured(GlyphsData(**{field: value})))
    with pytest.raises(ValueError, match=rf"data\.{field}="):
        open_data(config, "train")


def test_a_level_of_few_upright_categories_draws_those_alone():
    config = GlyphsData(
        num_train=20, num_val=5, image_size=96, min_size=20, categories=["cross", "square"],
        max_rotation=0,
    )  # fmt: skip
    dataset = open_data(config, "train")
    assert [category["name"] for category in dataset.categories] == ["cross", "square"]
    squares = [
        annotation
        for index in range(20)
        for annotation in dataset.example(index)[2]
        if annotation["category_id"] == 2
    ]
    # a square that stands on its corner fills half of its box, whatever its stretch
    whole = [
        s
        for s in squares
        if min(s["bbox"][:2]) > 0
        and max(s["bbox"][0] + s["bbox"][2], s["bbox"][1] + s["bbox"][3]) < 96
    ]
    shares = [s["area"] / (s["bbox"][2] * s["bbox"][3]) for s in whole]
    assert len(shares) >= 5
    assert np.median(shares) == pytest.approx(0.5, abs=0.06)


def test_options_at_their_defaults_leave_the_data_and_their_names_alone():
    few = GlyphsData(image_size=64, num_train=2, num_val=2)
    same = GlyphsData(
        image_size=64, num_train=2, num_val=2, categories=list(glyphs.CATEGORIES), max_rotation=180
    )
    turned = GlyphsData(image_size=64, num_train=2, num_val=2, max_rotation=90)
    fingerprints = [open_data(config, "val").fingerprint for config in (few, same, turned)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
