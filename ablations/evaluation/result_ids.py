"""Which image and category a result is about: by COCO's ids, or as other tools number them."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablations.evaluation.columns import Entries, Where, integers, positions, values_of
from ablations.evaluation.faults import FormatError, shown

IMAGE_IDS = ("id", "file_stem")
"""`image_id` is the truth's id, or the name of the image's file, with or without its folder and
ending. YOLO tools write such a name as a number where it is one: 42 for 000042.jpg."""

CATEGORIES = ("id", "contiguous", "contiguous_from_1")
"""`category_id` is the truth's id, or the place of the category by rising id, from 0 or from 1."""


def check_schemes(image_ids: str, categories: str) -> None:
    """ValueError for a scheme that is none."""
    for name, value, schemes in (
        ("image_ids", image_ids, IMAGE_IDS),
        ("categories", categories, CATEGORIES),
    ):
        if value not in schemes:
            raise ValueError(f"{name} is one of {', '.join(schemes)}, not {value!r}")


def find_images(
    results: Entries,
    known_ids: NDArray[np.int64],
    file_names: Sequence[str | None],
    scheme: str,
    where: Where,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Each result's place among the truth's images, and whether it is one of them."""
    if scheme == "id":
        try:
            return positions(integers(results, "image_id", where), known_ids, np.int32)
        except FormatError as error:
            if any(isinstance(value, str) for value in values_of(results, "image_id", where)):
                raise FormatError(
                    f"{error}; if it is the name of the image's file, read the results with "
                    "image_ids='file_stem' (--image-ids file_stem)"
                ) from None
            raise
    places = _by_stem(file_names)
    found = np.array(
        [_place(places, value) for value in values_of(results, "image_id", where)], dtype=np.int64
    )
    return found, found >= 0


def _place(places: dict[str | int, int], value: Any) -> int:
    if isinstance(value, str):
        return places.get(value.replace("\\", "/").rpartition("/")[2], -1)
    if isinstance(value, int) and type(value) is not bool:
        return places.get(value, -1)
    if isinstance(value, float) and value.is_integer():
        return places.get(int(value), -1)
    return -1


def _by_stem(file_names: Sequence[str | None]) -> dict[str | int, int]:
    """Places of the images by their file's name and stem, and by its number where it is one."""
    places: dict[str | int, int] = {}
    for place, file_name in enumerate(file_names):
        if file_name is None:
            raise FormatError(
                "image_ids='file_stem': the truth has images without file_name; write it"
            )
        path = PurePosixPath(file_name)
        names: list[str | int] = [path.stem, path.name]
        if path.stem.isdecimal() and len(path.stem) < 20:
            names.append(int(path.stem))
        for key in dict.fromkeys(names):
            if key in places:
                raise FormatError(
                    f"image_ids='file_stem': {shown(key)} is the name of two images, "
                    f"{file_names[places[key]]!r} and {file_name!r}; write their ids"
                )
            places[key] = place
    return places


def find_categories(
    results: Entries, known_ids: NDArray[np.int64], scheme: str, where: Where
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Each result's place among the truth's categories, and whether it is one of them."""
    ids = integers(results, "category_id", where)
    if scheme == "id":
        return positions(ids, known_ids, np.int32)
    places = ids - (scheme == "contiguous_from_1")
    return places, (places >= 0) & (places < len(known_ids))


def refuse_unknown(
    results: Entries, key: str, known: NDArray[np.bool_], where: Where, remedy: str
) -> None:
    """FormatError naming the first result whose image or category the truth does not have."""
    if known.all():
        return
    index = int(np.argmin(known))
    value = values_of(results, key, where)[index]
    raise FormatError(
        f"{where(index)}.{key}: {shown(value)} is not in the truth "
        f"({int((~known).sum())} such entries); {remedy}"
    )


def category_remedy(results: Entries, num_categories: int, where: Where) -> str:
    """What to do about categories that are not in the truth."""
    remedy = "list it in the truth, or take the entry out"
    ids = integers(results, "category_id", where)
    for scheme in CATEGORIES[1:]:
        first = scheme == "contiguous_from_1"
        if ids.min() >= first and ids.max() < num_categories + first:
            return (
                f"{remedy}; if categories are numbered from {int(first)} without gaps, read the "
                f"results with categories='{scheme}' (--categories {scheme})"
            )
    return remedy
