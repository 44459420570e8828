"""48 broken or odd COCO files, drawn and written here: each is good data with one named fault.

The cases, their numbers and their names are those of ../shared/data/broken, so that one table of
outcomes holds for both.
"""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Coco = dict[str, Any]
Spoil = Callable[[Coco], Coco | list[Any] | bytes | None]
"""Changes the good content in place, or gives what is written instead of it."""

WIDTH, HEIGHT = 640, 480

BOXES = {
    1: [[40, 60, 90, 80], [200, 40, 120, 90], [346, 212, 109, 104], [500, 90, 100, 110],
        [180, 300, 96, 100], [420, 350, 110, 100]],
    2: [[60, 80, 100, 90], [300, 60, 90, 100], [460, 200, 120, 100], [100, 320, 110, 100],
        [330, 340, 100, 90]],
    3: [[20, 30, 110, 100], [250, 150, 100, 96], [470, 60, 90, 100], [520, 330, 90, 110]],
}  # fmt: skip
"""Image id -> its objects; annotations are numbered from 1 through all images."""

TURNED_BY_EXIF_6 = Image.Transpose.ROTATE_90
"""What stores an upright image so that orientation 6, a quarter turn clockwise, undoes it."""


def write_broken(root: Path) -> None:
    """Write `annotations/<case>.json`, `images/` and `outside.jpg`."""
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    _write_images(root)
    for case, spoil in CASES.items():
        content = good()
        spoilt = spoil(content)
        if not isinstance(spoilt, bytes):
            spoilt = json.dumps(content if spoilt is None else spoilt).encode()
        (root / "annotations" / f"{case}.json").write_bytes(spoilt)


def good() -> Coco:
    """The content that every case spoils: three images, boxes with a polygon each."""
    annotations: list[dict[str, Any]] = []
    for image_id, boxes in BOXES.items():
        for box in boxes:
            number = len(annotations) + 1
            annotations.append(
                {
                    "id": number,
                    "image_id": image_id,
                    "category_id": 1 + number % 3,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": [_corners(box)],
                }
            )
    return {
        "images": [
            {"id": i, "file_name": f"cells_{i}.jpg", "width": WIDTH, "height": HEIGHT}
            for i in BOXES
        ],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(("red", "blue", "dot"), 1)],
    }


def _corners(box: list[float]) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def _write_images(root: Path) -> None:
    folder = root / "images"
    for image_id, boxes in BOXES.items():
        _draw(boxes).save(folder / f"cells_{image_id}.jpg")
    second = _draw(BOXES[2])
    half = second.resize((WIDTH // 2, HEIGHT // 2))
    second.save(root / "outside.jpg")
    second.save(folder / "Zelle_ä 漢字.jpg")
    second.convert("L").save(folder / "gray.jpg")
    second.convert("CMYK").save(folder / "cmyk.jpg")
    deep = np.asarray(half.convert("L"), dtype=np.uint16) * 257
    Image.fromarray(deep).save(folder / "gray16.png")
    half.quantize(64).save(folder / "palette.png", transparency=0)
    exif = Image.Exif()
    exif[0x0112] = 6
    second.transpose(TURNED_BY_EXIF_6).save(folder / "exif_rotated.jpg", exif=exif)
    whole = (folder / "cells_2.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) * 2 // 5])
    (folder / "html_page.jpg").write_text("<html><body>404 Not Found</body></html>")
    (folder / "zero_bytes.jpg").write_bytes(b"")
    (folder / "bomb.png").write_bytes(png_of_size(60000, 60000))


def _draw(boxes: list[list[int]]) -> Image.Image:
    """Cells on a ground that is brighter to the right, so that a turned picture is another one."""
    image = Image.linear_gradient("L").rotate(90).resize((WIDTH, HEIGHT))
    image = Image.merge("RGB", [image.point(lambda value: 120 + value // 2)] * 3)
    pen = ImageDraw.Draw(image)
    for number, (x, y, width, height) in enumerate(boxes):
        pen.ellipse((x, y, x + width, y + height), fill=(200, 60 + 20 * number, 90))
    return image


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header says this size, with next to no pixels behind it."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(64))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(name, content)
        for name, content in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


def _set(key: str, entry_id: int, changes: dict[str, Any]) -> Spoil:
    def spoil(content: Coco) -> None:
        [entry] = [entry for entry in content[key] if entry["id"] == entry_id]
        entry.update(changes)

    return spoil


def image(image_id: int, **changes: Any) -> Spoil:
    """Other values in one image's entry."""
    return _set("images", image_id, changes)


def annotation(annotation_id: int, **changes: Any) -> Spoil:
    """Other values in one annotation."""
    return _set("annotations", annotation_id, changes)


def listed_too(key: str, **entry: Any) -> Spoil:
    """One more entry at the end of a list."""
    return lambda content: content[key].append(entry)


def without(key: str, *entries: tuple[int, str]) -> Spoil:
    """Entries, given by id, that lack a field."""

    def spoil(content: Coco) -> None:
        for entry in content[key]:
            for entry_id, name in entries:
                if entry["id"] == entry_id:
                    del entry[name]

    return spoil


def emptied(*keys: str) -> Spoil:
    """Empty lists."""
    return lambda content: content | {key: [] for key in keys}


def several(*spoils: Spoil) -> Spoil:
    """One change after the other, each in place."""

    def spoil(content: Coco) -> None:
        for each in spoils:
            each(content)

    return spoil


def renumbered(first: int) -> Spoil:
    """Annotations numbered from `first`."""

    def spoil(content: Coco) -> None:
        for number, entry in enumerate(content["annotations"], start=first):
            entry["id"] = number

    return spoil


def boxes_by_corners(content: Coco) -> None:
    """x1, y1, x2, y2 where COCO has x, y, width, height."""
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]


def half_size(file_name: str) -> Spoil:
    """Image 2 and what is on it at half the size."""

    def spoil(content: Coco) -> None:
        image(2, file_name=file_name, width=WIDTH // 2, height=HEIGHT // 2)(content)
        for entry in content["annotations"]:
            if entry["image_id"] == 2:
                entry["bbox"] = [value / 2 for value in entry["bbox"]]
                entry["segmentation"] = [_corners(entry["bbox"])]
                entry["area"] /= 4

    return spoil


def no_annotation_of(image_id: int) -> Spoil:
    """An image without objects."""

    def spoil(content: Coco) -> None:
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != image_id]

    return spoil


def cut(content: Coco) -> bytes:
    """The first 60 % of the file."""
    text = json.dumps(content).encode()
    return text[: len(text) * 3 // 5]


def rle(height: int, width: int, *runs: int) -> Spoil:
    """Annotation 3 with a mask in runs."""
    return annotation(3, segmentation={"size": [height, width], "counts": list(runs)})


CASES: dict[str, Spoil] = {
    "00_good": lambda content: None,
    "01_json_cut": cut,
    "02_json_zero_bytes": lambda content: b"",
    "03_json_top_level_list": lambda content: content["annotations"],
    "04_json_no_categories": lambda content: {
        key: value for key, value in content.items() if key != "categories"
    },
    "05_json_utf8_bom": lambda content: json.dumps(content).encode("utf-8-sig"),
    "06_annotation_of_missing_image_id": annotation(4, image_id=999),
    "07_image_file_missing": image(2, file_name="does_not_exist.jpg"),
    "08_truncated_jpeg": image(2, file_name="truncated.jpg"),
    "09_html_saved_as_jpg": image(2, file_name="html_page.jpg"),
    "10_zero_byte_image": image(2, file_name="zero_bytes.jpg"),
    "11_zero_area_box": listed_too(
        "annotations", id=9001, image_id=1, category_id=1, bbox=[504, 337, 0, 0], area=0, iscrowd=0,
        segmentation=[_corners([504, 337, 0, 0])],
    ),
    "12_negative_width": annotation(3, bbox=[455, 212, -109, 104]),
    "13_box_outside": several(
        annotation(3, bbox=[700, 500, 50, 40]),
        annotation(4, bbox=[600, 440, 100, 80]),
        annotation(5, bbox=[-20, -10, 60, 60]),
    ),
    "14_nan_bbox": annotation(3, bbox=[float("nan"), 212, 109, 104]),
    "15_inf_bbox": annotation(3, bbox=[346, 212, float("inf"), 104]),
    "16_bbox_three_numbers": annotation(3, bbox=[346, 212, 109]),
    "17_bbox_strings": annotation(3, bbox=["346", "212", "109", "104"]),
    "18_bbox_xyxy": boxes_by_corners,
    "19_unknown_category_id": annotation(3, category_id=77),
    "20_duplicate_image_ids": image(3, id=2),
    "21_duplicate_file_name": listed_too(
        "images", id=4, file_name="cells_1.jpg", width=WIDTH, height=HEIGHT
    ),
    "22_duplicate_annotation_ids": annotation(6, id=5),
    "23_duplicate_category_ids": listed_too("categories", id=1, name="RBC2"),
    "24_annotation_id_zero": renumbered(0),
    "25_image_id_string": annotation(3, image_id="1"),
    "26_polygon_two_points": annotation(3, segmentation=[[100, 100, 140, 130]]),
    "27_polygon_odd_numbers": annotation(3, segmentation=[[100, 100, 140, 130, 120, 150, 90]]),
    "28_rle_wrong_size": rle(240, 320, 1000, 200, 75600),
    "29_rle_counts_too_short": rle(HEIGHT, WIDTH, 1000, 200),
    "30_rle_counts_too_long": rle(HEIGHT, WIDTH, 1000, 900000),
    "31_crowd_with_polygon": annotation(3, iscrowd=1),
    "32_optional_keys_absent": without(
        "annotations", (3, "area"), (3, "iscrowd"), (4, "segmentation")
    ),
    "33_path_traversal": image(2, file_name="../outside.jpg"),
    "34_absolute_path": image(2, file_name="/etc/hostname"),
    "35_grayscale_jpeg": image(2, file_name="gray.jpg"),
    "36_cmyk_jpeg": image(2, file_name="cmyk.jpg"),
    "37_png_16_bit": half_size("gray16.png"),
    "38_png_palette_alpha": half_size("palette.png"),
    "39_exif_rotated": image(2, file_name="exif_rotated.jpg"),
    "40_no_annotations": emptied("annotations"),
    "41_no_images": emptied("images", "annotations"),
    "42_one_image_without_boxes": no_annotation_of(3),
    "43_size_differs_from_json": image(2, width=WIDTH // 2, height=HEIGHT // 2),
    "44_width_height_absent": without("images", (2, "width"), (2, "height")),
    "45_decompression_bomb": image(2, file_name="bomb.png"),
    "46_json_huge_size": image(2, width=60000, height=60000),
    "47_non_ascii_file_name": image(2, file_name="Zelle_ä 漢字.jpg"),
}  # fmt: skip
