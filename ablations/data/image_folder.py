"""Folders of images as ImageNet has them: `ROOT/train/CLASS/...` and `ROOT/val/CLASS/...`.

timm finds the files and the classes. What cannot be decoded is an error that names the file: timm
would take the next image in its place.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING
from PIL import Image
from timm.data import create_dataset

from ablations.identity import digest

from .classes import ClassDataset
from .content import read_contents
from .faults import DataError


@dataclass(kw_only=True, slots=True)
class ImageFolderData:
    """A folder `root` that holds a folder of class folders for each split."""

    root: str = MISSING
    train: str = "train"
    val: str = "val"

    def check(self) -> None:
        """ValueError naming field and remedy."""
        for name in ("root", "train", "val"):
            folder = self.folder(name) if name != "root" else Path(self.root).expanduser()
            if not folder.is_dir():
                raise ValueError(
                    f"data.{name}={getattr(self, name)}: {folder} is no folder; give data.root=DIR "
                    "with DIR/train/CLASS/IMAGE and DIR/val/CLASS/IMAGE"
                )

    def folder(self, split: str) -> Path:
        """The folder of a split's classes."""
        return Path(self.root).expanduser() / getattr(self, split)


class ImageFolderDataset(ClassDataset):
    """One split of an image folder, or `max_images` spread evenly over it.

    `classes` are the training split's, for validation.
    """

    def __init__(
        self,
        config: ImageFolderData,
        split: str,
        max_images: int | None = None,
        classes: list[str] | None = None,
    ) -> None:
        """Raises DataError for a folder without images or with classes that are not `classes`."""
        self.folder = config.folder(split)
        try:
            reader = create_dataset("", root=str(self.folder), search_split=False).reader
        except RuntimeError as error:  # no image in it
            raise DataError(f"data.{split}={getattr(config, split)}: {error}") from error
        found = sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__)
        self.classes = found if classes is None else classes
        if unknown := [name for name in found if name not in self.classes]:
            raise DataError(
                f"{self.folder}: class {unknown[0]!r} is not among the {len(self.classes)} of "
                "training: use the same class folders in both splits"
            )
        if len(self.classes) < 2:
            raise DataError(
                f"{self.folder}: its images are of one class, {found[0]!r}: put each class into a "
                "folder of its own"
            )
        places = {name: label for label, name in enumerate(self.classes)}
        samples = [(path, places[found[number]]) for path, number in reader.samples]
        if max_images is not None and max_images < len(samples):
            chosen = np.linspace(0, len(samples) - 1, max_images).round().astype(int)
            samples = [samples[index] for index in chosen]
        # plain Python strings by the million would be copied into every worker
        self._paths = np.array([str(Path(path).relative_to(self.folder)) for path, _ in samples])
        self._labels = np.array([label for _, label in samples])
        hashes = [h for _, h in read_contents(self.folder, [Path(path) for path, _ in samples])]
        self.fingerprint = digest([self.classes, self._labels.tolist(), hashes])
        counts = Counter(self._labels.tolist())
        self.checks: dict[str, Any] = {
            "num_images": len(samples),
            "num_classes": len(self.classes),
            "num_images_by_class": {name: counts[label] for name, label in places.items()},
        }

    def __len__(self) -> int:
        return len(self._paths)

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def image(self, index: int) -> Image.Image:
        """Decode one image; DataError names the file."""
        path = self.folder / str(self._paths[index])
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{path}: cannot be decoded ({error}); replace or remove it") from error
