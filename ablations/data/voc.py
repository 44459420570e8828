"""VOC-style folders: an XML file for each image, lists of names for the splits.

Read into COCO's form and then checked as a COCO file is. "Difficult" objects become COCO's ignored
regions: not trained on, and neither hit nor false alarm in evaluation.
"""

import codecs
import logging
import math
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ablations.evaluation.instances import are_shares

from .coco import Annotation, Instances, check_folder, check_instances
from .faults import DataError
from .paths import ImageFolder, below, is_there, path_inside

log = logging.getLogger(__name__)

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

DIFFICULT = {"": 0, "0": 0, "false": 0, "1": 1, "true": 1}


@dataclass(kw_only=True, slots=True)
class VocData:
    """A VOC-style folder.

    train, val: lists of image names in `lists` (without .txt); annotations, images: folders
    inclusive: corners count pixels from 1 and the last one belongs to the box, as in VOC's own
        files ("the top-left pixel in the image has coordinates (1,1)", VOC2012 development kit
        guidelines); otherwise corners are the edges of the box, which many tools write
    negatives: keep training images without objects
    follow_links: take files that a link leads out of their folder
    The folders are relative to root.
    """

    root: str
    train: str = "train"
    val: str = "val"
    annotations: str = "Annotations"
    images: str = "JPEGImages"
    lists: str = "ImageSets/Main"
    inclusive: bool = True
    negatives: bool = True
    follow_links: bool = False

    def check(self) -> None:
        """ValueError naming field and remedy when a path does not exist."""
        check_folder(self.root, "data.root", "the folder that holds Annotations and ImageSets")
        annotations, images = below(self.root, self.annotations), below(self.root, self.images)
        check_folder(annotations, "data.annotations", "the folder of XML files")
        check_folder(images, "data.images", "the image folder below data.root")
        for name, split in (("data.train", self.train), ("data.val", self.val)):
            if not is_there(self.list_file(split)):
                raise ValueError(f"{name}={split!r}: no such list {self.list_file(split)}")

    def read(self, split: str, max_images: int | None = None) -> Instances:
        """Read and check one split; with `max_images`, that many images spread evenly over it."""
        return read_voc(self, split, max_images)

    def images_folder(self, split: str) -> ImageFolder:
        """The image folder, the same one for both splits."""
        return ImageFolder(below(self.root, self.images).resolve(), self.follow_links)

    def list_file(self, split: str) -> Path:
        """The file that lists a split's image names."""
        return below(self.root, self.lists) / f"{split}.txt"


@dataclass(slots=True)
class _Object:
    """One object of an XML file: box [x, y, width, height] by its edges, difficult 0 or 1."""

    label: str
    box: list[float]
    difficult: int


@dataclass(slots=True)
class _Image:
    """One XML file: what it says of its image, and the objects."""

    source: str
    name: str
    file_name: str | None
    size: dict[str, int]
    objects: list[_Object]


def read_voc(config: VocData, split: str, max_images: int | None = None) -> Instances:
    """Read and check one split. Categories are all names of both splits, in alphabetical order."""
    ours = config.train if split == "train" else config.val
    parsed = {
        name: _read_xml(config, name)
        for listed in (config.train, config.val)
        for name in _names(config, listed)
    }
    labels = {each.label for image in parsed.values() for each in image.objects}
    numbers = {label: number for number, label in enumerate(sorted(labels), start=1)}

    described = [parsed[name] for name in _names(config, ours)]
    files = _image_files(described, config.images_folder(split))
    images: list[dict[str, Any]] = []
    annotations: list[Annotation] = []
    where: list[str] = []
    for image, file in zip(described, files, strict=True):
        images.append({"id": len(images) + 1, "file_name": file, **image.size})
        for position, each in enumerate(image.objects, start=1):
            where.append(f"{image.source}: object {position} ({each.label})")
            annotations.append(
                {
                    "id": len(where),
                    "image_id": len(images),
                    "category_id": numbers[each.label],
                    "bbox": each.box,
                    "iscrowd": each.difficult,
                }
            )
    _refuse_shares(described, config.inclusive)
    if config.inclusive:
        _tell_of_zero_corners(described)
    return check_instances(
        {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": label} for label, number in numbers.items()],
        },
        source=f"{config.lists}/{ours}.txt",
        folder=config.images_folder(split),
        masks=False,
        max_images=max_images,
        describe=lambda annotation: where[annotation["id"] - 1],
        describe_image=lambda image: f"{described[image['id'] - 1].source}: image {image['id']}",
    )


def _names(config: VocData, listed: str) -> list[str]:
    """The images of a list, by the names of their XML files without ending."""
    file = config.list_file(listed)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}): give a list of image names") from error
    folder = below(config.root, config.annotations)
    return [_name(line.strip(), folder) for line in lines if line.strip()]


def _name(line: str, annotations: Path) -> str:
    """What a line names: all of it where that has an XML file, else a part of it.

    Lists of single categories have a flag -1, 0 or 1 behind the name; some tools write the ending
    of the image or of the XML file.
    """
    without_flag = re.sub(r"\s+(-1|0|1)$", "", line)
    readings = [line, without_flag]
    readings += [
        os.path.splitext(each)[0]
        for each in readings
        if _is_image(each) or each.lower().endswith(".xml")
    ]
    for name in readings:
        if "\0" not in name and is_there(annotations / f"{name}.xml"):
            return name
    return without_flag


# --- which image an XML file is about ------------------------------------------------------------


def _image_files(images: list[_Image], folder: ImageFolder) -> list[str]:
    """Each image's file: the one with the XML file's name, as VOC has it, else the one it names.

    Raises DataError where both are there, and differ.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for parent, _, files in os.walk(folder.path):
        for file in filter(_is_image, files):
            path = (Path(parent) / file).relative_to(folder.path)
            by_name[path.with_suffix("").as_posix()].append(path.as_posix())
    chosen = [_image_file(image, sorted(by_name[image.name]), folder) for image in images]
    others = [
        f"{image.source}: <filename> is {image.file_name!r}, taken is {file!r}"
        for image, file in zip(images, chosen, strict=True)
        if image.file_name and PurePath(image.file_name).stem != PurePath(file).stem
    ]
    if others:
        log.warning(
            "%d XML files name an image that is not there, first: %s; remedy: correct <filename>",
            len(others),
            others[0],
        )
    return chosen


def _image_file(image: _Image, own: list[str], folder: ImageFolder) -> str:
    """`own` are the images that have the XML file's name."""
    said = image.file_name
    found = list(own)
    if said is not None:
        path = path_inside(folder.path, said, image.source, follow_links=folder.follow_links)
        if said in own or not own:
            return said
        if is_there(path):
            found.append(said)
    if len(found) != 1:
        raise DataError(
            f"{image.source}: <filename> is {said!r}, and there is "
            f"{' and '.join(map(repr, found)) or 'no image of the name of this XML file'}: "
            "write the image that the boxes are drawn on into <filename>"
        )
    return found[0]


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS)


# --- one XML file --------------------------------------------------------------------------------


def _read_xml(config: VocData, name: str) -> _Image:
    folder = below(config.root, config.annotations).resolve()
    source = f"{config.annotations}/{name}.xml"
    path = path_inside(folder, f"{name}.xml", config.lists, follow_links=config.follow_links)
    tree = _parse(path, source)
    objects = []
    for position, element in enumerate(tree.findall("object"), start=1):
        where = f"{source}: object {position}"
        x1, y1, x2, y2 = (
            _number(element, f"bndbox/{side}", where) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        if config.inclusive:
            x1, y1 = x1 - 1, y1 - 1
        box = [x1, y1, x2 - x1, y2 - y1]
        objects.append(_Object(_text(element, "name", where), box, _difficult(element, where)))
    file_name = (tree.findtext("filename") or "").strip() or None
    return _Image(source, name, file_name, _size(tree, source), objects)


def _parse(path: Path, source: str) -> ElementTree.Element:
    """The root element; DataError unless it is an <annotation> in the encoding it declares."""
    try:
        text = _decode(path.read_bytes())
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise DataError(f"{source}: declares a document type, which may expand: remove it")
        tree = ElementTree.fromstring(text)
    except FileNotFoundError as error:
        raise DataError(f"{source}: no such file, but it is listed: add it") from error
    except (OSError, UnicodeError, LookupError, ElementTree.ParseError) as error:
        raise DataError(f"{source}: not readable XML ({error}): mend the file") from error
    if tree.tag != "annotation":
        raise DataError(f"{source}: top element is <{tree.tag}>: VOC's is <annotation>")
    return tree


def _decode(content: bytes) -> str:
    """Text in the encoding that a byte-order mark or the XML declaration says, else UTF-8."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding)
    declared = re.match(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""", content)
    encoding = declared[1].decode().lower() if declared else "utf-8"
    # what Windows tools call by the older name has the letters of the newer one too
    return content.decode("gb18030" if encoding in ("gb2312", "gbk") else encoding)


def _size(tree: ElementTree.Element, source: str) -> dict[str, int]:
    """Width and height in pixels; neither where one is 0 or absent: the image file has them."""
    size = {}
    for side in ("width", "height"):
        text = (tree.findtext(f"size/{side}") or "0").strip()
        try:
            value = float(text or "0")
        except ValueError:
            value = math.nan
        if not (value >= 0 and value.is_integer()):
            raise DataError(f"{source}: <size/{side}> is {text!r}: write a whole number")
        size[side] = int(value)
    return size if all(size.values()) else {}


def _difficult(element: ElementTree.Element, where: str) -> int:
    text = (element.findtext("difficult") or "").strip()
    if text.lower() not in DIFFICULT:
        raise DataError(f"{where}: difficult is {text!r}: write 0 or 1")
    return DIFFICULT[text.lower()]


def _text(element: ElementTree.Element, path: str, where: str) -> str:
    text = (element.findtext(path) or "").strip()
    if not text:
        raise DataError(f"{where}: <{path}> is absent or empty: write it")
    return text


def _number(element: ElementTree.Element, path: str, where: str) -> float:
    text = _text(element, path, where)
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{where}: <{path}> is {text!r}: write a number") from error


def _refuse_shares(images: list[_Image], inclusive: bool) -> None:
    """DataError where corners are shares of the image instead of pixels."""
    boxes = np.array([each.box for image in images for each in image.objects]).reshape(-1, 4)
    corners = boxes + np.array([1, 1, 0, 0]) * inclusive
    corners[:, 2:] += boxes[:, :2]
    if are_shares(corners):
        source = next(image.source for image in images if image.objects)
        raise DataError(
            f"{source}: object 1: <bndbox> is {corners[0].tolist()}, and like it nearly all "
            "corners lie between 0 and 1: they are shares of the image; write them in pixels"
        )


def _tell_of_zero_corners(images: list[_Image]) -> None:
    """A corner at 0 cannot be VOC's own: its first pixel is 1."""
    at_zero = [image.source for image in images if any(min(o.box[:2]) < 0 for o in image.objects)]
    if at_zero:
        log.warning(
            "%d XML files have corners below 1, the first pixel as VOC counts, first: %s; "
            "remedy: where corners are the edges of boxes, say data.inclusive=false",
            len(at_zero),
            at_zero[0],
        )
