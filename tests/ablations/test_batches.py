"""Batches: the same at a step whatever the workers, the start and the past."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ablations.data import (
    CocoData,
    DataError,
    GlyphsData,
    Sides,
    Target,
    open_data,
    train_batches,
    val_batches,
)
from ablations.data.__main__ import main
from ablations.data.batches import (
    TrainSampler,
    flip_horizontally,
    is_flipped,
    order_of_epoch,
)
from detnet.detection import Batch, resize

DATASET = open_data(GlyphsData(num_train=7, num_val=5, image_size=64, max_objects=4), "train")

SPAWNED = """
import sys
import torch
from test_batches import DATASET, digests
from ablations.data import train_batches
if __name__ == "__main__":
    torch.multiprocessing.set_start_method("spawn")
    print(*digests(train_batches(DATASET, 2, seed=5, start_step=3, num_workers=1), 4))
"""


def digests(batches: Iterator[Batch], num: int) -> list[str]:
    """One hex digest for each of the next batches."""
    return [
        hashlib.sha256(
            b"".join(
                value.numpy().tobytes() if isinstance(value, torch.Tensor) else str(value).encode()
                for part in (batch, batch.targets)
                for field in fields(part)
                if (value := getattr(part, field.name)) is not batch.targets
            )
        ).hexdigest()
        for batch in islice(batches, num)
    ]


@pytest.fixture(scope="module")
def reference() -> list[str]:
    return digests(train_batches(DATASET, 2, seed=5), 9)


def test_stream_can_start_at_any_step(reference: list[str]) -> None:
    for step in (1, 4, 8):
        assert digests(train_batches(DATASET, 2, seed=5, start_step=step), 1) == [reference[step]]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_do_not_change_the_stream(reference: list[str], num_workers: int) -> None:
    batches = train_batches(DATASET, 2, seed=5, start_step=2, num_workers=num_workers)
    assert digests(batches, 7) == reference[2:]


def test_spawned_workers_give_the_same_stream(reference: list[str], tmp_path: Path) -> None:
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED)
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={"PYTHONPATH": f"{root}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == reference[3:7]


def test_seeds_give_other_streams(reference: list[str]) -> None:
    assert not set(digests(train_batches(DATASET, 2, seed=6), 3)) & set(reference)


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    next(train_batches(DATASET, 2, seed=5, num_workers=1))
    list(val_batches(DATASET, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_each_epoch_visits_every_image_once_and_batches_span_epochs() -> None:
    batches = train_batches(DATASET, 2, seed=5)
    ids = [image_id for batch in islice(batches, 7) for image_id in batch.image_ids]
    assert sorted(ids[:7]) == sorted(ids[7:]) == list(range(1, 8))
    assert ids[:7] != ids[7:]


def test_processes_share_the_global_batch() -> None:
    together = train_batches(DATASET, 4, seed=5)
    apart = [train_batches(DATASET, 2, seed=5, rank=rank, world_size=2) for rank in (0, 1)]
    for _ in range(3):
        whole, parts = next(together), [next(batches) for batches in apart]
        assert parts[0].image_ids + parts[1].image_ids == whole.image_ids


def test_validation_passes_every_image_once_unchanged() -> None:
    seen = list(val_batches(DATASET, 3, num_workers=2))
    assert [batch.image_ids for batch in seen] == [[1, 2, 3], [4, 5, 6], [7]]
    for batch in seen:
        assert batch.targets is not None
        first_mask = 0
        for k, image_id in enumerate(batch.image_ids):
            image, target = DATASET[image_id - 1]
            num = len(target["boxes"])
            assert torch.equal(batch.images[k], image)
            assert torch.equal(batch.targets.boxes[k, :num], target["boxes"])
            assert batch.targets.labels[k].tolist()[: num + 1] == [*target["labels"].tolist(), 0]
            assert batch.targets.masks is not None
            masks = batch.targets.masks[first_mask : first_mask + num]
            assert torch.equal(masks, target["masks"])
            first_mask += num


def test_processes_share_the_validation_images() -> None:
    seen = [val_batches(DATASET, 3, rank=rank, world_size=2) for rank in (0, 1)]
    by_rank = [[batch.image_ids for batch in batches] for batches in seen]
    assert by_rank == [[[1, 2, 3]], [[4, 5, 6], [7]]]


def test_upright_and_wide_images_are_in_batches_of_their_own() -> None:
    is_tall = np.arange(50) % 3 == 0
    for world_size in (1, 2):
        ranks = [
            islice(TrainSampler(is_tall, 4, seed=1, rank=rank, world_size=world_size), 100)
            for rank in range(world_size)
        ]
        batches = [list(chain(*parts)) for parts in zip(*ranks, strict=True)]
        visits = [key for batch in batches for key in batch]
        per_epoch = [[i for epoch, i in visits if epoch == k] for k in range(7)]
        assert all(sorted(indices) == list(range(50)) for indices in per_epoch)
        assert [epoch for epoch, _ in visits] == sorted(epoch for epoch, _ in visits)
        mixed = [len({bool(is_tall[i]) for _, i in batch}) == 2 for batch in batches]
        assert sum(mixed) <= 2 * (visits[-1][0] + 1)  # where an epoch begins and ends
        (later,) = islice(TrainSampler(is_tall, 4, seed=1, start_step=60), 1)
        if world_size == 1:
            assert later == batches[60]


def test_images_are_resized_as_their_sides_say() -> None:
    sides = Sides([32, 40, 48], 100)
    seen = list(islice(train_batches(DATASET, 1, seed=5, flip=False, sides=sides), 60))
    shapes = [tuple(batch.sizes[0].tolist()) for batch in seen]
    assert set(shapes) == {(32, 32), (40, 40), (48, 48)}
    for batch, (side, _) in zip(seen, shapes, strict=True):
        (image_id,) = batch.image_ids
        image, _ = resize(DATASET[image_id - 1], side, 100)
        assert torch.equal(batch.images[0, :, :side, :side], image)
        assert batch.original_sizes == [(64, 64)]
    later = list(islice(train_batches(DATASET, 1, seed=5, start_step=30, sides=sides), 30))
    assert [tuple(batch.sizes[0].tolist()) for batch in later] == shapes[30:]


def test_validation_images_take_the_last_short_side() -> None:
    (batch,) = val_batches(DATASET, 7, sides=Sides([32, 48], 100))
    assert batch.sizes.tolist() == [[48, 48]] * 7


def test_flip_keeps_boxes_on_their_masks() -> None:
    for index in range(len(DATASET)):
        image, target = DATASET[index]
        flipped, mirrored = flip_horizontally(image, target)
        assert torch.equal(flipped, torch.from_numpy(np.flip(image.numpy(), 2).copy()))
        for mask, box in zip(mirrored["masks"], mirrored["boxes"], strict=True):
            rows, columns = np.nonzero(mask.numpy())
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == corners
        again, twice = flip_horizontally(flipped, mirrored)
        assert torch.equal(again, image)
        assert torch.equal(twice["boxes"], target["boxes"])


def test_flip_of_a_box_by_hand() -> None:
    target: Target = {"boxes": torch.tensor([[1.0, 2.0, 4.0, 6.0]])}
    _, flipped = flip_horizontally(torch.zeros(3, 10, 20, dtype=torch.uint8), target)
    assert flipped["boxes"].tolist() == [[16, 2, 19, 6]]


def test_half_of_the_images_are_flipped_anew_each_epoch() -> None:
    flips = np.array([[is_flipped(1, epoch, i) for i in range(500)] for epoch in (0, 1)])
    assert abs(flips.mean() - 0.5) < 0.05  # 3 standard deviations of 1000 coins
    assert abs((flips[0] == flips[1]).mean() - 0.5) < 0.07
    assert not (order_of_epoch(500, 1, 0) == order_of_epoch(500, 1, 1)).all()


def test_flip_can_be_left_out() -> None:
    for batch in islice(train_batches(DATASET, 2, seed=5, flip=False), 4):
        for image, image_id in zip(batch.images, batch.image_ids, strict=True):
            assert torch.equal(image, DATASET[image_id - 1][0])


def spoilt_folder(root: Path) -> CocoData:
    """One whole image, and one whose file is cut off behind the header."""
    (root / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("whole.png", "cut.png"):
        Image.fromarray(pixels).save(root / "images" / name)
    cut = root / "images" / "cut.png"
    cut.write_bytes(cut.read_bytes()[:400])
    images = [{"id": k, "file_name": name} for k, name in enumerate(("whole.png", "cut.png"))]
    box = {"image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9]}
    content = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": [box]}
    (root / "a.json").write_text(str(content).replace("'", '"'))
    return CocoData(root=str(root), train="a.json", val="a.json")


def photograph_folder(root: Path) -> CocoData:
    """A large JPEG, whose right half is white, with a box on each half."""
    pixels = np.zeros((300, 400, 3), dtype=np.uint8)
    pixels[:, 200:] = 255
    Image.fromarray(pixels).save(root / "a.jpg", quality=95)
    boxes = [[20, 30, 100, 60], [250, 60, 100, 90]]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": 1, "bbox": box, "segmentation": [[
                box[0], box[1], box[0] + box[2], box[1], box[0] + box[2], box[1] + box[3],
                box[0], box[1] + box[3],
            ]]}
            for k, box in enumerate(boxes)
        ],
    }  # fmt: skip
    (root / "a.json").write_text(json.dumps(content))
    return CocoData(root=str(root), train="a.json", val="a.json", images=".", masks=True)


def test_a_jpeg_decoded_at_a_part_of_its_size_keeps_its_objects_in_place(tmp_path: Path) -> None:
    dataset = open_data(photograph_folder(tmp_path), "train")
    assert dataset.sized(0, 60, 100)[0].shape == (3, 75, 100)
    seen = islice(train_batches(dataset, 1, seed=0, sides=Sides([60], 100)), 8)
    turned = set()
    for batch in seen:
        assert batch.targets is not None
        assert batch.targets.masks is not None
        assert batch.sizes.tolist() == [[60, 80]]
        is_flipped_image = bool(batch.images[0, 0, 30, 10] > 128)
        turned.add(is_flipped_image)
        (dark, light), masks = batch.targets.boxes[0, :2].tolist(), batch.targets.masks
        assert dark == pytest.approx([56, 6, 76, 18] if is_flipped_image else [4, 6, 24, 18])
        assert light == pytest.approx([10, 12, 30, 30] if is_flipped_image else [50, 12, 70, 30])
        for mask, box in zip(masks, (dark, light), strict=False):
            rows, columns = np.nonzero(mask.numpy())
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert corners == pytest.approx(box, abs=1)
    assert turned == {True, False}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_image_that_cannot_be_decoded_is_named_by_the_worker(
    tmp_path: Path, num_workers: int
) -> None:
    dataset = open_data(spoilt_folder(tmp_path), "train")
    batches = train_batches(dataset, 2, seed=0, num_workers=num_workers)
    with pytest.raises(DataError, match=r"cut\.png"):
        next(batches)


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 0), ("num_workers", -1), ("start_step", -1)]
)
def test_counts_out_of_range_are_named(name: str, value: int) -> None:
    arguments = {"batch_size": 2, "seed": 0} | {name: value}
    with pytest.raises(ValueError, match=name):
        train_batches(DATASET, **arguments)


def test_command_line_checks_shows_and_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = ["glyphs", "num_train=6", "data.num_val=4", "image_size=64"]
    assert main(["check", *fields]) == 0
    printed = capsys.readouterr().out
    assert "6 images" in printed
    assert "4 images" in printed
    assert main(["sheet", *fields, "--out", str(tmp_path / "sheet.png")]) == 0
    assert Image.open(tmp_path / "sheet.png").size == (6 * 256, 256)
    assert main(["speed", *fields, "--num-workers", "0", "--num-batches", "2"]) == 0
    assert "images/s" in capsys.readouterr().out


def test_command_line_refuses_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "glyphs", "num_trian=6"]) == 2
    assert "num_trian" in capsys.readouterr().err
    assert main(["check", "coco", f"root={tmp_path}", "train=a.json", "val=a.json"]) == 2
    assert "data.train" in capsys.readouterr().err
