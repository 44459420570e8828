"""Paths of a data set: files stay in their folder, and a wrong name is told what is there."""

import json
import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ablations.data import Coco2017Data, CocoData, DataConfig, DataError, VocData, open_data
from ablations.data.paths import ImageFolder


def write_coco(root: Path, **entry: Any) -> CocoData:
    """Two images of 40 x 30; `entry` changes the second one's entry."""
    (root / "images").mkdir(parents=True)
    for number in (1, 2):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.jpg")
    images = [{"id": 10 * k, "file_name": f"{k}.jpg", "width": 40, "height": 30} for k in (1, 2)]
    images[1].update(entry)
    truth = {
        "images": images,
        "annotations": [{"id": 1, "image_id": 10, "category_id": 1, "bbox": [1, 2, 9, 9]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "a.json").write_text(json.dumps(truth))
    return CocoData(root=str(root), train="a.json", val="a.json")


def refusal(config: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        open_data(config, "val")
    return str(caught.value)


# --- what is there -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "there"),
    [
        ("images\\two words.jpg", "two words.jpg"),
        ("C:\\data\\images\\two words.jpg", "two words.jpg"),
        ("two%20words.jpg", "two words.jpg"),
        ("two words.jpg", "two%20words.jpg"),
        ("images/two words.jpg", "two words.jpg"),
        ("two words.jpg", "images/two words.jpg"),
        ("Two Words.JPG", "two words.jpg"),
        ("two words.jpg", "TWO WORDS.jpg"),
        ("two words.png", "two words.jpg"),
        ("two words", "two words.jpg"),
        (" two words.jpg ", "two words.jpg"),
        (unicodedata.normalize("NFD", "Bär.jpg"), unicodedata.normalize("NFC", "Bär.jpg")),
    ],
)
def test_a_name_that_is_nearly_right_is_told_what_is_there(
    tmp_path: Path, said: str, there: str
) -> None:
    config = write_coco(tmp_path, file_name=said)
    (tmp_path / "images" / there).parent.mkdir(exist_ok=True)
    (tmp_path / "images" / "2.jpg").rename(tmp_path / "images" / there)
    message = refusal(config)
    assert "a.json: image 20" in message
    assert "no such image file" in message
    assert f"there is {there!r}" in message


def test_an_image_that_only_coco_url_names_is_told(tmp_path: Path) -> None:
    config = write_coco(tmp_path, file_name=None, coco_url="http://images.org/val2017/2.jpg")
    assert "a.json: image 20: file_name is None, but there is '2.jpg'" in refusal(config)


def test_the_right_name_goes_before_those_of_another_ending(tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path)
    for name in ("x.png", "X.JPG", "y.jpg"):
        (tmp_path / name).touch()
    assert folder.suggestion("a/x.jpg") == ", but there is 'X.JPG'"
    assert folder.suggestion("x.webp") == ", but there is 'X.JPG' and 'x.png'"
    assert folder.suggestion("z.jpg") == folder.suggestion(None) == ""


def test_names_that_look_the_same_are_told_apart(tmp_path: Path) -> None:
    written, there = (unicodedata.normalize(form, "Bär.jpg") for form in ("NFD", "NFC"))
    (tmp_path / there).touch()
    assert "another Unicode form" in ImageFolder(tmp_path).suggestion(written)


# --- links ---------------------------------------------------------------------------------------


def link_out(root: Path, folder: str) -> None:
    """Each image of the folder becomes a link to a file in `store`, as data managers do."""
    (root / "store").mkdir(exist_ok=True)
    for file in (root / folder).iterdir():
        file.rename(root / "store" / file.name)
        file.symlink_to(Path("..") / "store" / file.name)


def linked_coco(root: Path) -> CocoData:
    config = write_coco(root)
    link_out(root, "images")
    return config


def linked_coco2017(root: Path) -> Coco2017Data:
    write_coco(root)
    link_out(root, "images")
    (root / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        shutil.copytree(root / "images", root / split, symlinks=True)
        shutil.copy(root / "a.json", root / "annotations" / f"instances_{split}.json")
    return Coco2017Data(root=str(root))


def linked_voc(root: Path) -> VocData:
    write_coco(root)
    link_out(root, "images")
    (root / "lists").mkdir()
    (root / "xml").mkdir()
    for number, split in ((1, "train"), (2, "val")):
        (root / "lists" / f"{split}.txt").write_text(str(number))
        (root / "xml" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename><object><name>cat</name><bndbox>"
            "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
            "</annotation>"
        )
    link_out(root, "xml")
    return VocData(root=str(root), annotations="xml", images="images", lists="lists")


@pytest.mark.parametrize("write", [linked_coco, linked_coco2017, linked_voc])
def test_links_out_of_the_folder_are_refused_unless_they_are_followed(
    tmp_path: Path, write: Any
) -> None:
    config = write(tmp_path)
    assert "data.follow_links=true" in refusal(config)
    config.follow_links = True
    dataset = open_data(config, "val")
    assert dataset.image(0).shape == (30, 40, 3)


def test_followed_links_change_no_fingerprint(tmp_path: Path) -> None:
    plain = open_data(write_coco(tmp_path / "plain"), "val")
    linked = linked_coco(tmp_path / "linked")
    linked.follow_links = True
    assert open_data(linked, "val").fingerprint == plain.fingerprint


@pytest.mark.parametrize("name", ["../store/2.jpg", "{root}/store/2.jpg", "x/../../store/2.jpg"])
def test_names_that_leave_the_folder_are_refused_even_where_links_are_followed(
    tmp_path: Path, name: str
) -> None:
    config = write_coco(tmp_path, file_name=name.format(root=tmp_path))
    link_out(tmp_path, "images")
    config.follow_links = True
    assert "leaves the image folder" in refusal(config)


def test_links_that_lead_nowhere_or_round_are_refused_by_image(tmp_path: Path) -> None:
    config = linked_coco(tmp_path)
    config.follow_links = True
    (tmp_path / "store" / "2.jpg").unlink()
    message = refusal(config)
    assert "a.json: image 20" in message
    assert "a link to" in message
    assert "there is" not in message
    (tmp_path / "store" / "2.jpg").symlink_to(tmp_path / "images" / "2.jpg")
    assert "a.json: image 20" in refusal(config)


@pytest.mark.parametrize("field", ["root", "train", "val", "images", "val_images"])
def test_a_path_too_long_for_any_file_is_refused_by_its_field(tmp_path: Path, field: str) -> None:
    config = write_coco(tmp_path)
    setattr(config, field, "x" * 5000)
    with pytest.raises(ValueError, match=rf"data\.{field}"):
        config.check()


# --- the home folder -----------------------------------------------------------------------------


def test_the_home_folder_is_known_in_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_coco(tmp_path / "data")
    for config in (
        CocoData(root="~/data", train="a.json", val="a.json"),
        CocoData(root="~", train="data/a.json", val="~/data/a.json", images="~/data/images",
                 val_images="~/data/images"),
    ):  # fmt: skip
        config.check()
        assert len(open_data(config, "val")) == 2
        assert len(open_data(config, "train")) == 2
    voc = linked_voc(tmp_path / "voc")
    fields = {name: f"~/voc/{getattr(voc, name)}" for name in ("annotations", "images", "lists")}
    assert len(open_data(VocData(root="~/voc", follow_links=True, **fields), "train")) == 1


# --- faults of an image name where it is listed ---------------------------------------------------


def spoil_nothing(path: Path) -> None:
    path.unlink()


def spoil_text(path: Path) -> None:
    path.write_text("no image")


def spoil_heic(path: Path) -> None:
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))


def spoil_size(path: Path) -> None:
    Image.new("RGB", (30, 40)).save(path)


def spoil_range(path: Path) -> None:
    Image.new("F", (40, 30)).save(path, "TIFF")


def spoil_file(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [spoil_nothing, spoil_text, spoil_heic, spoil_size, spoil_range, spoil_file],
)
def test_every_fault_names_annotation_file_image_and_file(tmp_path: Path, spoil: Any) -> None:
    config = write_coco(tmp_path)
    dataset = open_data(config, "val")
    spoil(tmp_path / "images" / "2.jpg")
    message = refusal(config)
    assert "a.json: image 20" in message
    assert "2.jpg" in message
    with pytest.raises(DataError) as caught:  # and where it is spoilt after it was opened
        dataset.image(1)
    assert "a.json: image 20" in str(caught.value)
    assert "2.jpg" in str(caught.value)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    config = write_coco(tmp_path)
    (tmp_path / "images" / "2.jpg").chmod(0)
    if os.access(tmp_path / "images" / "2.jpg", os.R_OK):
        pytest.skip("this user may read everything")
    assert "a.json: image 20" in refusal(config)
