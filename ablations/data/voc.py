"""VOC-style folders: an XML file for each image, lists of names for the splits.

Read into COCO's form and then checked as a COCO file is. "Difficult" objects become COCO's ignored
regions: not trained on, and neither hit nor false alarm in evaluation.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from .coco import Annotation, Instances, check_folder, check_instances
from .faults import DataError
from .paths import ImageFolder, below, path_inside


@dataclass(kw_only=True, slots=True)
class VocData:
    """A VOC-style folder.

    train, val: lists of image names in `lists` (without .txt); annotations, images: folders
    inclusive: corners count pixels from 1 and the last one belongs to the box, as in VOC's own
        files; otherwise corners are the edges of the box
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
    inclusive: bool = False
    negatives: bool = True
    follow_links: bool = False

    def check(self) -> None:
        """ValueError naming field and remedy when a path does not exist."""
        check_folder(self.root, "data.root", "the folder that holds Annotations and ImageSets")
        annotations, images = below(self.root, self.annotations), below(self.root, self.images)
        check_folder(annotations, "data.annotations", "the folder of XML files")
        check_folder(images, "data.images", "the image folder below data.root")
        for name, split in (("data.train", self.train), ("data.val", self.val)):
            if not self.list_file(split).is_file():
                raise ValueError(f"{name}={split!r}: no such list {self.list_file(split)}")

    def images_folder(self, split: str) -> ImageFolder:
        """The image folder, the same one for both splits."""
        return ImageFolder(below(self.root, self.images).resolve(), self.follow_links)

    def list_file(self, split: str) -> Path:
        """The file that lists a split's image names."""
        return below(self.root, self.lists) / f"{split}.txt"


def read_voc(config: VocData, split: str, max_images: int | None = None) -> Instances:
    """Read and check one split. Categories are all names of both splits, in alphabetical order."""
    ours = config.train if split == "train" else config.val
    parsed = {
        name: _read_xml(config, name)
        for file in (config.train, config.val)
        for name in _names(config.list_file(file))
    }
    categories = sorted({label for _, objects in parsed.values() for label, _, _ in objects})
    numbers = {label: number for number, label in enumerate(categories, start=1)}

    images: list[dict[str, Any]] = []
    annotations: list[Annotation] = []
    where: list[str] = []
    for name in _names(config.list_file(ours)):
        image, objects = parsed[name]
        images.append({"id": len(images) + 1, **image})
        for position, (label, box, difficult) in enumerate(objects, start=1):
            where.append(f"{config.annotations}/{name}.xml: object {position} ({label})")
            annotations.append(
                {
                    "id": len(where),
                    "image_id": len(images),
                    "category_id": numbers[label],
                    "bbox": box,
                    "iscrowd": difficult,
                }
            )
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
    )


def _names(file: Path) -> list[str]:
    """First word of each line: the lists of single categories have a flag behind the name."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}): give a list of image names") from error
    return [line.split()[0] for line in lines if line.strip()]


def _read_xml(
    config: VocData, name: str
) -> tuple[dict[str, Any], list[tuple[str, list[float], int]]]:
    """The image's file and size, and (label, [x, y, width, height], difficult) of its objects."""
    folder = below(config.root, config.annotations).resolve()
    path = path_inside(folder, f"{name}.xml", config.lists, follow_links=config.follow_links)
    source = f"{config.annotations}/{name}.xml"
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise DataError(f"{source}: declares a document type, which may expand: remove it")
        tree = ElementTree.fromstring(text)
    except (OSError, UnicodeDecodeError, ElementTree.ParseError) as error:
        raise DataError(f"{source}: not readable UTF-8 XML ({error}): mend the file") from error

    image: dict[str, Any] = {"file_name": _text(tree, "filename", source)}
    if tree.find("size") is not None:
        for side in ("width", "height"):
            text = _text(tree, f"size/{side}", source)
            if not text.isdecimal():
                raise DataError(f"{source}: <size/{side}> is {text!r}: write a whole number")
            image[side] = int(text)
    objects = []
    for position, element in enumerate(tree.findall("object"), start=1):
        where = f"{source}: object {position}"
        x1, y1, x2, y2 = (
            _number(element, f"bndbox/{side}", where) for side in ("xmin", "ymin", "xmax", "ymax")
        )
        if config.inclusive:
            x1, y1 = x1 - 1, y1 - 1
        difficult = _text(element, "difficult", where, default="0")
        if difficult not in ("0", "1"):
            raise DataError(f"{where}: difficult is {difficult!r}: write 0 or 1")
        objects.append((_text(element, "name", where), [x1, y1, x2 - x1, y2 - y1], int(difficult)))
    return image, objects


def _text(element: ElementTree.Element, path: str, where: str, default: str | None = None) -> str:
    text = element.findtext(path, default) or ""
    if not text.strip():
        raise DataError(f"{where}: <{path}> is absent or empty: write it")
    return text.strip()


def _number(element: ElementTree.Element, path: str, where: str) -> float:
    text = _text(element, path, where)
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{where}: <{path}> is {text!r}: write a number") from error
