"""Glyphs for classification: the embedded data set's shapes and letters, one in each image.

Drawn by what draws the detection images, on demand: a network that is pretrained here meets the
same strokes, grounds and clutter again as a detector's backbone, in other images.
"""

import hashlib
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from ablations.identity import digest

from .classes import ClassDataset
from .coco import SPLITS
from .glyphs import CATEGORIES, GlyphsData, draw_objects

_STREAM = 1
"""Parts the random numbers from those of detection images of the same seed."""


@dataclass(kw_only=True, slots=True)
class GlyphClassesData:
    """One glyph an image; categories, rotation and clutter as in `data=glyphs`.

    image_size: side of the square images, pixels
    min_size, max_size: square root of a glyph's area, as shares of the image's side
    """

    seed: int = 0
    num_train: int = 10_000
    num_val: int = 1_000
    image_size: int = 64
    min_size: float = 0.25
    max_size: float = 0.7
    clutter: float = 1.0
    categories: list[str] = field(default_factory=lambda: list(CATEGORIES))
    max_rotation: float = 180.0

    def check(self) -> None:
        """ValueError naming field and remedy."""
        if not 0 < self.min_size < self.max_size:
            raise ValueError(
                f"data.min_size={self.min_size}: give a share of the image's side above 0, below "
                f"max_size ({self.max_size})"
            )
        if len(self.categories) < 2:
            raise ValueError(f"data.categories={list(self.categories)}: give two or more")
        self.drawn().check()

    def drawn(self) -> GlyphsData:
        """The detection data of one object an image that are drawn alike."""
        return GlyphsData(
            seed=self.seed,
            num_train=self.num_train,
            num_val=self.num_val,
            image_size=self.image_size,
            min_size=self.min_size * self.image_size,
            max_size=self.max_size,
            max_objects=1,
            clutter=self.clutter,
            categories=list(self.categories),
            max_rotation=self.max_rotation,
        )


class GlyphClassesDataset(ClassDataset):
    """Images of one glyph, drawn when they are asked for; the classes take turns."""

    def __init__(self, config: GlyphClassesData, split: str, max_images: int | None = None) -> None:
        config.check()
        self.config = replace(config)
        self.split = split
        num = config.num_train if split == "train" else config.num_val
        self._num = num if max_images is None else min(num, max_images)
        self.classes = list(config.categories)
        drawing = {k: v for k, v in asdict(config).items() if k not in ("num_train", "num_val")}
        # pixels of the first image stand for the drawing code, the font and Pillow's rasterizer
        first = hashlib.sha256(self.image(0).tobytes()).hexdigest()
        self.fingerprint = digest([drawing, split, self._num, first])
        self.checks: dict[str, Any] = {"num_images": self._num, "num_classes": len(self.classes)}

    def __len__(self) -> int:
        return self._num

    def label(self, index: int) -> int:
        return index % len(self.classes)

    def image(self, index: int) -> Image.Image:
        if not 0 <= index < self._num:
            raise IndexError(index)
        entropy = (self.config.seed, SPLITS.index(self.split), index, _STREAM)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
        label = self.label(index)

        def choose(rng: np.random.Generator, config: GlyphsData) -> list[tuple[int, float]]:
            ratio = config.max_size * config.image_size / config.min_size
            return [(label, config.min_size * ratio ** rng.uniform())]

        pixels, _, _ = draw_objects(self.config.drawn(), rng, choose)
        return Image.fromarray(pixels)
