"""VOC-style folders: XML read with care, difficult objects ignored, names kept in the errors."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablations.data import DataError, VocData, open_data

BCCD = Path(__file__).parents[3] / "shared" / "data" / "bccd"


def xml_object(name: str, corners: tuple[float, float, float, float], difficult: str = "") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{difficult}<bndbox>{box}</bndbox></object>"


def write_voc(root: Path, *objects: str, head: str = "") -> VocData:
    """Image `one` with the given objects in train; image `two` with a dog in val."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    dog = xml_object("dog", (1, 1, 9, 9))
    for name, split, content in (("one", "train", "".join(objects)), ("two", "val", dog)):
        Image.fromarray(np.full((30, 40, 3), 128, np.uint8)).save(root / f"JPEGImages/{name}.jpg")
        (root / f"ImageSets/Main/{split}.txt").write_text(f"{name} 1\n\n")
        (root / f"Annotations/{name}.xml").write_text(
            f"{head}<annotation><filename>{name}.jpg</filename><size><width>40</width>"
            f"<height>30</height></size>{content}</annotation>"
        )
    return VocData(root=str(root))


def test_boxes_are_edges_or_counted_pixels(tmp_path: Path) -> None:
    config = write_voc(tmp_path, xml_object("cat", (3, 4, 10, 20)))
    _, target = open_data(config, "train")[0]
    assert target["boxes"].tolist() == [[3, 4, 10, 20]]
    assert target["area"].tolist() == [7 * 16]
    config.inclusive = True
    _, target = open_data(config, "train")[0]
    assert target["boxes"].tolist() == [[2, 3, 10, 20]]


def test_categories_are_those_of_both_splits(tmp_path: Path) -> None:
    config = write_voc(tmp_path, xml_object("cat", (3, 4, 10, 20)))
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert open_data(config, "train").categories == categories
    assert open_data(config, "val").categories == categories
    assert open_data(config, "val")[0][1]["labels"].tolist() == [2]


def test_difficult_objects_are_ignored_regions(tmp_path: Path) -> None:
    difficult = xml_object("cat", (3, 4, 10, 20), "<difficult>1</difficult>")
    dataset = open_data(write_voc(tmp_path, difficult, xml_object("cat", (1, 1, 5, 5))), "train")
    assert dataset.checks["num_ignored"] == 1
    assert [a["iscrowd"] for a in dataset.truth["annotations"]] == [1, 0]
    assert dataset[0][1]["boxes"].tolist() == [[1, 1, 5, 5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<object>", "not readable UTF-8 XML"),
        ("<object><name>cat</name></object>", "bndbox/xmin"),
        (xml_object("", (1, 2, 3, 4)), "<name>"),
        (xml_object("cat", (1, 2, 3, 4)).replace("<xmax>3", "<xmax>three"), "'three'"),
        (xml_object("cat", (1, 2, 3, 4), "<difficult>yes</difficult>"), "difficult"),
        ("<size><width>41</width><height>30</height></size>", None),
    ],
)
def test_spoilt_xml_is_refused_by_name(tmp_path: Path, content: str, message: str | None) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)), content)
    if message is None:  # a second <size> is not looked at
        assert len(open_data(config, "train")) == 1
        return
    with pytest.raises(DataError, match=message) as refusal:
        open_data(config, "train")
    assert "Annotations/one.xml" in str(refusal.value)


def test_document_types_are_refused_unread(tmp_path: Path) -> None:
    laughs = "".join(f'<!ENTITY a{k + 1} "{f"&a{k};" * 10}">' for k in range(12))
    head = f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a0 "ha">{laughs}]>'
    with pytest.raises(DataError, match="document type"):
        open_data(write_voc(tmp_path, "<object>&a12;</object>", head=head), "train")


def test_size_that_differs_from_the_file_is_refused(tmp_path: Path) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    file = tmp_path / "Annotations/one.xml"
    file.write_text(file.read_text().replace("<width>40", "<width>400"))
    with pytest.raises(DataError, match="400x30"):
        open_data(config, "train")
    file.write_text(file.read_text().replace("<width>400", "<width>nan"))
    with pytest.raises(DataError, match="'nan'"):
        open_data(config, "train")


@pytest.mark.parametrize("name", ["../one", "/etc/hostname"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    (tmp_path / "ImageSets/Main/train.txt").write_text(name)
    with pytest.raises(DataError, match="leaves"):
        open_data(config, "train")


def test_masks_cannot_be_had(tmp_path: Path) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    with pytest.raises(ValueError, match="masks"):
        open_data(config, "train", masks=True)
    with pytest.raises(ValueError, match=r"data\.train"):
        VocData(root=str(tmp_path), train="absent").check()


@pytest.mark.skipif(not BCCD.is_dir(), reason="needs ../shared/data/bccd")
@pytest.mark.parametrize(
    ("split", "num_images", "num_boxes"), [("train", 205, 2804), ("val", 87, 1137)]
)
def test_bccd_as_found_is_read_as_its_readme_counts(
    split: str, num_images: int, num_boxes: int
) -> None:
    dataset = open_data(VocData(root=str(BCCD / "raw"), images="../images"), split)
    assert dataset.checks["num_images"] == num_images
    assert dataset.checks["num_objects"] == num_boxes
    [fault] = dataset.checks["faults"]
    assert (fault["kind"], fault["count"]) == ("box_empty", 1)
    name = {"train": "BloodImage_00343.xml", "val": "BloodImage_00338.xml"}[split]
    assert name in fault["examples"][0]
