"""VOC-style folders: XML read with care, difficult objects ignored, names kept in the errors."""

import json
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


def test_boxes_count_pixels_from_one_as_in_voc_unless_they_are_edges(tmp_path: Path) -> None:
    config = write_voc(tmp_path, xml_object("cat", (3, 4, 10, 20)))
    _, target = open_data(config, "train")[0]
    assert target["boxes"].tolist() == [[2, 3, 10, 20]]
    assert target["area"].tolist() == [8 * 17]  # pixels 3 to 10 by 4 to 20
    config.inclusive = False
    _, target = open_data(config, "train")[0]
    assert target["boxes"].tolist() == [[3, 4, 10, 20]]
    assert target["area"].tolist() == [7 * 16]


def test_a_box_of_the_whole_image_reaches_its_edges(tmp_path: Path) -> None:
    whole = open_data(write_voc(tmp_path, xml_object("cat", (1, 1, 40, 30))), "train")
    assert whole[0][1]["boxes"].tolist() == [[0, 0, 40, 30]]
    assert whole.checks["faults"] == []


def test_corners_at_zero_are_told_since_voc_counts_from_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_voc(tmp_path, xml_object("cat", (0, 4, 10, 20)))
    open_data(config, "train")
    assert "Annotations/one.xml" in caplog.text
    assert "data.inclusive=false" in caplog.text
    caplog.clear()
    config.inclusive = False
    open_data(config, "train")
    assert not caplog.text


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
    assert dataset[0][1]["boxes"].tolist() == [[0, 0, 5, 5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<object>", "not readable XML"),
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


def replace_in(file: Path, old: str, new: str) -> None:
    content = file.read_text()
    assert old in content
    file.write_text(content.replace(old, new))


@pytest.mark.parametrize(
    "size",
    [
        "<size><width>0</width><height>0</height></size>",
        "<size><width>40</width><height>0</height></size>",
        "<size><width/><height/></size>",
        "<size><width>40.0</width><height>30.0</height></size>",
        "<size></size>",
        "",
    ],
)
def test_a_size_that_says_nothing_is_taken_from_the_image(tmp_path: Path, size: str) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    whole = "<size><width>40</width><height>30</height></size>"
    replace_in(tmp_path / "Annotations/one.xml", whole, size)
    [image] = open_data(config, "train").truth["images"]
    assert (image["width"], image["height"]) == (40, 30)


@pytest.mark.parametrize("width", ["-40", "40.5", "nan", "inf", "1e999", "wide"])
def test_a_size_that_is_no_number_of_pixels_is_refused_by_xml(tmp_path: Path, width: str) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    replace_in(tmp_path / "Annotations/one.xml", "<width>40", f"<width>{width}")
    with pytest.raises(DataError, match=rf"Annotations/one\.xml: <size/width> is '{width}'"):
        open_data(config, "train")


@pytest.mark.parametrize(
    ("text", "ignored"),
    [("<difficult/>", 0), ("<difficult> </difficult>", 0), ("<difficult>0</difficult>", 0),
     ("<difficult>False</difficult>", 0), ("<difficult>True</difficult>", 1),
     ("<difficult>\n1\n</difficult>", 1), ("", 0)],
)  # fmt: skip
def test_difficult_as_tools_write_it(tmp_path: Path, text: str, ignored: int) -> None:
    config = write_voc(
        tmp_path, xml_object("cat", (3, 4, 10, 20), text), xml_object("cat", (1, 1, 5, 5))
    )
    assert open_data(config, "train").checks["num_ignored"] == ignored


def add_image(root: Path, name: str, value: int) -> None:
    Image.fromarray(np.full((30, 40, 3), value, np.uint8)).save(root / "JPEGImages" / name)


def test_a_file_name_of_another_image_is_refused_by_xml(tmp_path: Path) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    replace_in(tmp_path / "Annotations/one.xml", "one.jpg", "two.jpg")
    with pytest.raises(
        DataError, match=r"Annotations/one\.xml: <filename> is 'two\.jpg'.*'one\.jpg'"
    ):
        open_data(config, "train")


def test_a_file_name_that_is_not_there_gives_way_to_the_name_of_the_xml(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    replace_in(tmp_path / "Annotations/one.xml", "one.jpg", "IMG_20180101.jpg")
    assert open_data(config, "train").truth["images"][0]["file_name"] == "one.jpg"
    assert "Annotations/one.xml" in caplog.text
    assert "IMG_20180101.jpg" in caplog.text


@pytest.mark.parametrize(
    "said", ["<filename>one</filename>", "<filename>one.png</filename>", "<filename/>", ""]
)
def test_a_file_name_without_its_ending_or_none_is_the_image_of_the_xml(
    tmp_path: Path, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    replace_in(tmp_path / "Annotations/one.xml", "<filename>one.jpg</filename>", said)
    assert open_data(config, "train").truth["images"][0]["file_name"] == "one.jpg"
    assert not caplog.text


def test_a_file_name_that_no_file_can_have_gives_way_too(tmp_path: Path) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    replace_in(tmp_path / "Annotations/one.xml", "one.jpg", "x" * 5000)
    assert len(open_data(config, "train")) == 1
    config.train = "x" * 5000
    with pytest.raises(ValueError, match=r"data\.train"):
        config.check()


def test_two_images_of_one_name_are_told_apart_by_the_file_name(tmp_path: Path) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    add_image(tmp_path, "one.png", 7)
    replace_in(tmp_path / "Annotations/one.xml", "one.jpg", "one.png")
    assert (open_data(config, "train").image(0) == 7).all()
    for said in ("<filename>one</filename>", "<filename>absent.jpg</filename>", ""):
        write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
        replace_in(tmp_path / "Annotations/one.xml", "<filename>one.jpg</filename>", said)
        with pytest.raises(DataError, match=r"Annotations/one\.xml.*'one\.jpg' and 'one\.png'"):
            open_data(config, "train")


def test_without_a_file_name_an_image_of_another_name_is_not_guessed(tmp_path: Path) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    replace_in(tmp_path / "Annotations/one.xml", "<filename>one.jpg</filename>", "")
    (tmp_path / "JPEGImages/one.jpg").rename(tmp_path / "JPEGImages/1.jpg")
    with pytest.raises(DataError, match=r"Annotations/one\.xml.*no image"):
        open_data(config, "train")


def test_images_in_folders_below_are_found(tmp_path: Path) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    (tmp_path / "JPEGImages/day").mkdir()
    add_image(tmp_path, "day/a.b.jpg", 7)
    (tmp_path / "JPEGImages/one.jpg").unlink()
    replace_in(tmp_path / "Annotations/one.xml", "one.jpg", "day/a.b.jpg")
    assert (open_data(config, "train").image(0) == 7).all()
    replace_in(tmp_path / "Annotations/one.xml", "day/a.b.jpg", "a.b.jpg")
    with pytest.raises(DataError, match=r"one\.xml: image 1: .*there is 'day/a\.b\.jpg'"):
        open_data(config, "train")


@pytest.mark.parametrize(
    "line",
    ["my dog 1", "my dog 1  1", "my dog 1 -1", "my dog 1.jpg", "my dog 1.xml", "\ufeffmy dog 1\r"],
)
def test_names_with_spaces_are_read_whole(tmp_path: Path, line: str) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    for folder, ending in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (tmp_path / folder / f"one.{ending}").rename(tmp_path / folder / f"my dog 1.{ending}")
    replace_in(tmp_path / "Annotations/my dog 1.xml", "one.jpg", "my dog 1.jpg")
    (tmp_path / "ImageSets/Main/train.txt").write_text(f"{line}\n")
    assert open_data(config, "train").truth["images"][0]["file_name"] == "my dog 1.jpg"


def test_a_listed_image_without_xml_is_refused_by_name(tmp_path: Path) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    (tmp_path / "ImageSets/Main/train.txt").write_text("one 1\nthree -1\n")
    with pytest.raises(DataError, match=r"Annotations/three\.xml: no such file"):
        open_data(config, "train")


def names_of(config: VocData) -> list[str]:
    return [category["name"] for category in open_data(config, "train").categories]


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("gb2312", "猫"), ("GB2312", "镕"), ("gbk", "猫"), ("shift_jis", "猫"), ("euc-kr", "고양이"),
     ("big5", "貓"), ("iso-8859-1", "Bär"), ("windows-1252", "Bär€"), ("utf-8", "猫"),
     ("utf-16", "猫"), ("utf-8-sig", "猫")],
)  # fmt: skip
def test_the_declared_encoding_is_honored(tmp_path: Path, encoding: str, name: str) -> None:
    config = write_voc(tmp_path, xml_object(name, (1, 2, 9, 9)))
    file = tmp_path / "Annotations/one.xml"
    declared = encoding.removesuffix("-sig")
    head = f'<?xml version="1.0" encoding="{declared}"?>\n'
    codec = "gbk" if encoding == "GB2312" else encoding  # as Windows tools write it
    file.write_bytes((head + file.read_text()).encode(codec))
    assert set(names_of(config)) == {"dog", name}


def test_bytes_that_are_another_word_in_utf_8_are_read_as_declared(tmp_path: Path) -> None:
    name = "猫"
    assert name.encode("gb2312").decode("utf-8") == "è"
    config = write_voc(tmp_path, xml_object(name, (1, 2, 9, 9)))
    file = tmp_path / "Annotations/one.xml"
    head = '<?xml version="1.0" encoding="gb2312"?>'
    file.write_bytes((head + file.read_text()).encode("gb2312"))
    assert names_of(config) == ["dog", name]


@pytest.mark.parametrize("declared", ["no-such", "zlib", "utf-8", "ascii"])
def test_text_that_is_not_in_its_encoding_is_refused_by_xml(tmp_path: Path, declared: str) -> None:
    config = write_voc(tmp_path, xml_object("啊", (1, 2, 9, 9)))
    file = tmp_path / "Annotations/one.xml"
    head = f'<?xml version="1.0" encoding="{declared}"?>'
    file.write_bytes((head + file.read_text()).encode("gb2312"))
    with pytest.raises(DataError, match=r"Annotations/one\.xml: not readable XML"):
        open_data(config, "train")


def test_another_top_element_is_refused_not_taken_for_an_empty_image(tmp_path: Path) -> None:
    config = write_voc(tmp_path, xml_object("cat", (1, 2, 9, 9)))
    file = tmp_path / "Annotations/one.xml"
    file.write_text(f"<annotations>{file.read_text()}</annotations>")
    with pytest.raises(DataError, match=r"one\.xml: top element is <annotations>"):
        open_data(config, "train")


@pytest.mark.parametrize("name", ["voc_size_0_0", "voc_filename_of_other_image"])
def test_folders_found_in_the_wild(shared: Path, name: str) -> None:
    config = VocData(root=str(shared / "data/found" / name))
    if name == "voc_filename_of_other_image":
        with pytest.raises(DataError, match=r"Annotations/0\.xml: <filename> is '1\.jpg'"):
            open_data(config, "train")
        return
    [image] = open_data(config, "train").truth["images"]
    assert (image["width"], image["height"]) == (64, 48)


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


def bccd(**fields: bool) -> VocData:
    if not BCCD.is_dir():
        pytest.skip("needs ../shared/data/bccd")
    return VocData(root=str(BCCD / "raw"), images="../images", **fields)


@pytest.mark.parametrize(
    ("split", "num_images", "num_boxes"), [("train", 205, 2804), ("val", 87, 1137)]
)
def test_bccd_as_found_is_read_as_its_readme_counts(
    split: str, num_images: int, num_boxes: int
) -> None:
    # Its README: numbers read as edges, so that a box of equal corners is empty
    dataset = open_data(bccd(inclusive=False), split)
    assert dataset.checks["num_images"] == num_images
    assert dataset.checks["num_objects"] == num_boxes
    [fault] = dataset.checks["faults"]
    assert (fault["rule"], fault["count"]) == ("box_empty", 1)
    name = {"train": "BloodImage_00343.xml", "val": "BloodImage_00338.xml"}[split]
    assert name in fault["examples"][0]


def test_counted_pixels_give_bccd_one_pixel_more_on_each_side(shared: Path) -> None:
    truth = json.loads((shared / "data/bccd/annotations/val.json").read_text())
    edges = {tuple(a["bbox"]) for a in truth["annotations"]}
    boxes = [a["bbox"] for a in open_data(bccd(), "val").truth["annotations"]]
    assert len(boxes) == len(truth["annotations"]) + 1  # and the box of equal corners
    assert sum((x + 1, y + 1, w - 1, h - 1) in edges for x, y, w, h in boxes) == len(boxes) - 1


def test_an_image_that_cannot_be_decoded_is_told_with_its_xml(tmp_path: Path) -> None:
    dataset = open_data(write_voc(tmp_path, xml_object("cat", (1, 1, 9, 9))), "train")
    file = tmp_path / "JPEGImages" / "one.jpg"
    content = file.read_bytes()
    file.write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"Annotations/one\.xml: .*one\.jpg: cannot be decoded"):
        dataset[0]


@pytest.mark.parametrize("inclusive", [True, False])
def test_corners_that_are_shares_of_the_image_are_refused(tmp_path: Path, inclusive: bool) -> None:
    config = write_voc(tmp_path, *[xml_object("cat", (0.17, 0.43, 0.53, 1.0))] * 19)
    config.inclusive = inclusive
    with pytest.raises(DataError, match=r"Annotations/one\.xml: object 1: .*0\.17.*shares"):
        open_data(config, "train")
