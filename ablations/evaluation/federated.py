"""Truth that is not complete: LVIS says for each image which categories were looked for.

A detection of a category that is neither annotated on its image nor known to be absent from it is
left out: nobody can say whether it is right. Where the objects of a category are known to be
annotated in part, a detection without an object is ignored. At most 300 detections of an image
count, of all categories together, and crowds are objects (Gupta, Dollar, Girshick 2019, and the
evaluation of the lvis package).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablations.evaluation.columns import Where, positions, whole_numbers
from ablations.evaluation.faults import FormatError, shown

FIELDS = ("neg_category_ids", "not_exhaustive_category_ids")
MAX_DETS_PER_IMAGE = 300
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}
"""LVIS's groups of categories, by the number of training images that have them."""


@dataclass(frozen=True, eq=False)
class Federated:
    """Pairs of image and category, each as category * num_images + image, rising."""

    num_images: int
    negative: NDArray[np.int64]
    """No object of the category is on the image."""
    not_exhaustive: NDArray[np.int64]
    """Not every object of the category on the image is annotated."""

    @classmethod
    def read(
        cls,
        images: Sequence[dict[str, Any]],
        order: NDArray[np.int64],
        category_ids: NDArray[np.int64],
        name: str,
    ) -> "Federated | None":
        """From the images of a file; None where it says nothing of categories. Raises FormatError.

        `order` has the place in the file of each image, by rising id.
        """
        if not any(key in image for image in images for key in FIELDS):
            return None
        negative, not_exhaustive = (
            _keys(images, order, category_ids, key, f"{name}: images") for key in FIELDS
        )
        return cls(len(images), negative, not_exhaustive)

    def is_judged(
        self,
        image: NDArray[Any],
        category: NDArray[Any],
        scores: NDArray[np.float64],
        object_image: NDArray[Any],
        object_category: NDArray[Any],
    ) -> NDArray[np.bool_]:
        """Which detections count at all; the others are left out."""
        order = np.lexsort((-scores, image))
        first = np.searchsorted(image[order], image[order])
        judged = np.empty(len(image), dtype=bool)
        judged[order] = np.arange(len(image)) - first < MAX_DETS_PER_IMAGE
        looked_for = np.union1d(self.negative, self._key(object_image, object_category))
        return judged & np.isin(self._key(image, category), looked_for)

    def is_partial(self, image: NDArray[Any], category: NDArray[Any]) -> NDArray[np.bool_]:
        """Which detections are ignored where they find no object."""
        return np.isin(self._key(image, category), self.not_exhaustive)

    def _key(self, image: NDArray[Any], category: NDArray[Any]) -> NDArray[np.int64]:
        return category.astype(np.int64) * self.num_images + image


def _keys(
    images: Sequence[dict[str, Any]],
    order: NDArray[np.int64],
    category_ids: NDArray[np.int64],
    key: str,
    where: str,
) -> NDArray[np.int64]:
    parts = [np.zeros(0, np.int64)]
    for index, place in enumerate(order.tolist()):
        ids = images[place].get(key) or []
        if not isinstance(ids, list):
            raise FormatError(
                f"{where}[{place}].{key}: must be a list of category ids, not {shown(ids)}"
            )
        numbers = whole_numbers(ids, key, _always(f"{where}[{place}]"))
        found, known = positions(numbers, category_ids)
        parts.append(found[known] * len(images) + index)
    return np.unique(np.concatenate(parts))


def _always(where: str) -> Where:
    return lambda index: where


def mean_by_frequency(
    values: NDArray[np.float64], frequencies: Sequence[str | None]
) -> dict[str, float | None]:
    """Means of one value a category (K,), NaN where it has no object, over LVIS's groups.

    None where no category of the group has an object.
    """
    means: dict[str, float | None] = {}
    for letter, name in FREQUENCIES.items():
        group = values[np.array([f == letter for f in frequencies], dtype=bool)]
        group = group[~np.isnan(group)]
        means[name] = float(group.mean()) if len(group) else None
    return means
