"""Glyphs: an embedded detection data set, drawn from a seed.

Filled shapes and letters, rotated and overlapping, on cluttered textured grounds. Sizes are
log-uniform in the square root of the mask's area, the quantity by which COCO tells small, medium
and large apart. Some categories differ by a stroke (E and F, B and 8, ring and Q), so that a
detector has to see detail as well as place. Strokes, blobs and letters that are in no category
serve as clutter.

An image is a function of (seed, split, index) and the parameters alone. Random numbers come from
a counter-based generator; outlines are rounded to a fixed grid before they are filled, and colors
are mixed in integers, so that the last bit of a machine's sine makes no difference.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ablations.evaluation import masks as coco_masks
from ablations.identity import digest
from ablations.progress import tracked

from .coco import SPLITS
from .dataset import DetectionDataset, Example

CATEGORIES = ("ring", "square", "pentagon", "star", "cross", "B", "8", "E", "F", "Q")
CLUTTER_LETTERS = ("A", "7", "K", "T", "4", "S")

SUPERSAMPLING = 4
"""Outlines are filled on a grid this much finer than the image, then averaged."""

MIN_VISIBLE = 0.6
"""Share of an object that must stay visible; what would hide more of another is not drawn."""

NUM_PLACES = 6
"""How many places an object is tried at before it is left out."""

MIN_CONTRAST = 48
"""Least distance, over the three channels together, of an object's color to its ground."""

HALF_TURN = 180.0
"""Degrees: who may turn so far to either side may stand in any way."""

MAX_SPAN = 1.1
"""Share of the image's side that an object may span; the image's edge cuts off the rest."""


@dataclass(kw_only=True, slots=True)
class GlyphsData:
    """Drawn images of shapes and letters; see the module.

    image_size: side of the square images, pixels
    min_size, max_size: square root of an object's area, from pixels to a share of the image's side
    max_objects: at most this many objects in an image; their number is uniform from 0
    clutter: 0 for plain grounds, 1 for the data set's own
    categories: which of `CATEGORIES` are drawn, numbered from 1 in this order
    max_rotation: degrees by which an object is turned at most, to either side
    """

    seed: int = 0
    num_train: int = 2000
    num_val: int = 200
    image_size: int = 192
    min_size: float = 12.0
    max_size: float = 0.85
    max_objects: int = 8
    clutter: float = 1.0
    masks: bool | None = None
    categories: list[str] = field(default_factory=lambda: list(CATEGORIES))
    max_rotation: float = 180.0

    def check(self) -> None:
        """ValueError naming field and remedy."""
        for name in ("num_train", "num_val", "max_objects"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)}: give at least 1")
        if self.seed < 0:
            raise ValueError(f"data.seed={self.seed}: give a number from 0")
        if not 32 <= self.image_size <= 4096:
            raise ValueError(f"data.image_size={self.image_size}: give 32 to 4096 pixels")
        if not 4 <= self.min_size < math.inf:
            raise ValueError(f"data.min_size={self.min_size}: give at least 4 pixels")
        if not self.min_size / self.image_size < self.max_size <= 1:
            raise ValueError(
                f"data.max_size={self.max_size}: give a share of the image's side above "
                f"min_size / image_size = {self.min_size / self.image_size:.3f}, at most 1"
            )
        if not 0 <= self.clutter <= 4:
            raise ValueError(f"data.clutter={self.clutter}: give 0 to 4")
        if not 0 <= self.max_rotation <= 180:
            raise ValueError(f"data.max_rotation={self.max_rotation}: give 0 to 180 degrees")
        given = list(self.categories)
        if not given or len(set(given)) < len(given) or not set(given) <= set(CATEGORIES):
            raise ValueError(
                f"data.categories={given}: give one or more of {', '.join(CATEGORIES)}, each once"
            )


# --- outlines ---------------------------------------------------------------------------------

Outline = tuple[np.ndarray, ...]
"""Contours (N, 2), the outer before the holes in it, centered, of filled area 1."""


def _regular(num_corners: int, radius: float = 1.0, phase: float = 0.0) -> np.ndarray:
    angles = 2 * np.pi * (np.arange(num_corners) / num_corners) + phase
    return radius * np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _star() -> np.ndarray:
    return np.stack([_regular(5), _regular(5, 0.45, np.pi / 5)], axis=1).reshape(-1, 2)


def _cross() -> np.ndarray:
    arm = 0.36
    quarter = np.array([[arm, -1.0], [arm, -arm], [1.0, -arm]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


SHAPES: dict[str, Callable[[], list[np.ndarray]]] = {
    "ring": lambda: [_regular(48), _regular(48, 0.62)],
    "square": lambda: [_regular(4)],
    "pentagon": lambda: [_regular(5)],
    "star": lambda: [_star()],
    "cross": lambda: [_cross()],
}


def _letter(character: str) -> list[np.ndarray]:
    """Contours of a letter of DejaVu Sans Bold, the font that matplotlib carries."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight="bold")
    contours = TextPath((0, 0), character, size=100, prop=font).to_polygons(closed_only=True)
    return [np.asarray(contour)[:-1] * (1, -1) for contour in contours]


def _signed_area(contour: np.ndarray) -> float:
    x, y = contour.T
    return float(0.5 * (x @ np.roll(y, -1) - y @ np.roll(x, -1)))


@cache
def outline(name: str) -> Outline:
    """The outline of a category or of a clutter letter."""
    contours = SHAPES[name]() if name in SHAPES else _letter(name)
    contours = sorted(contours, key=lambda contour: -abs(_signed_area(contour)))
    outer, *holes = [abs(_signed_area(contour)) for contour in contours]
    scale = (outer - sum(holes)) ** -0.5
    low, high = contours[0].min(axis=0), contours[0].max(axis=0)
    return tuple((contour - (low + high) / 2) * scale for contour in contours)


# --- drawing ----------------------------------------------------------------------------------


def _random(seed: int, split: str, index: int) -> np.random.Generator:
    entropy = np.random.SeedSequence((seed, SPLITS.index(split), index))
    return np.random.Generator(np.random.Philox(entropy))


def _transformed(
    shape: Outline,
    rng: np.random.Generator,
    size: float,
    largest: float,
    max_rotation: float = HALF_TURN,
) -> list[np.ndarray]:
    """Stretched a little, turned, scaled to `size`; shrunk where it would span over `largest`."""
    angle = rng.uniform(0, 2 * np.pi)
    if max_rotation < HALF_TURN:
        angle = (angle - np.pi) * max_rotation / HALF_TURN
    stretch = rng.uniform(0.85, 1.18)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos * stretch, sin * stretch], [-sin / stretch, cos / stretch]]) * size
    contours = [contour @ matrix for contour in shape]
    span = float(np.ptp(contours[0], axis=0).max())
    return [contour * min(1.0, largest / span) for contour in contours]


def _coverage(contours: list[np.ndarray], x: float, y: float) -> tuple[int, int, np.ndarray]:
    """Fill the outline around (x, y): left and top pixel, and coverage (h, w) of 0 to 255."""
    fine = [np.rint((c + np.array((x, y))) * SUPERSAMPLING).astype(np.int64) for c in contours]
    low = fine[0].min(axis=0) // SUPERSAMPLING
    width, height = fine[0].max(axis=0) // SUPERSAMPLING - low + 1
    canvas = Image.new("L", (int(width) * SUPERSAMPLING, int(height) * SUPERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    for position, contour in enumerate(fine):
        points = (contour - low * SUPERSAMPLING).ravel().tolist()
        pen.polygon(points, fill=0 if position else 255)
    return int(low[0]), int(low[1]), np.asarray(canvas.reduce(SUPERSAMPLING))


def _paste(pixels: np.ndarray, color: np.ndarray, alpha: np.ndarray) -> None:
    """Mix `color` (broadcast to (h, w, 3)) into `pixels` by `alpha` (h, w), in integers."""
    weight = alpha[..., None].astype(np.int32)
    mixed = weight * color + (255 - weight) * pixels.astype(np.int32)
    pixels[:] = (mixed + 127) // 255


def _crop(left: int, top: int, alpha: np.ndarray, side: int) -> tuple[slice, slice, np.ndarray]:
    """The part of a coverage that lies in the image: its rows, columns and values."""
    height, width = alpha.shape
    rows = slice(max(top, 0), max(min(top + height, side), 0))
    columns = slice(max(left, 0), max(min(left + width, side), 0))
    inner = alpha[
        rows.start - top : max(rows.stop - top, 0),
        columns.start - left : max(columns.stop - left, 0),
    ]
    return rows, columns, inner


def _noise(rng: np.random.Generator, cells: int, side: int, channels: int) -> np.ndarray:
    """Smooth noise (side, side, channels) of -128 to 127: random cells, enlarged."""
    grid = rng.integers(0, 256, (cells, cells, channels), dtype=np.uint8)
    planes = [
        np.asarray(Image.fromarray(grid[..., k]).resize((side, side), Image.Resampling.BICUBIC))
        for k in range(channels)
    ]
    return np.stack(planes, axis=-1).astype(np.int32) - 128


def _ground(rng: np.random.Generator, side: int, clutter: float) -> np.ndarray:
    color = rng.integers(40, 216, 3)
    total = np.broadcast_to(color * 256, (side, side, 3)).astype(np.int32)
    for cells, channels, most in ((3, 3, 90), (9, 1, 60), (27, 1, 50), (81, 1, 30)):
        strength = rng.integers(0, most + 1) * clutter
        total = total + _noise(rng, min(cells, side), side, channels) * round(2 * strength)
    return (np.clip(total, 0, 255 * 256) // 256).astype(np.uint8)


def _scatter(rng: np.random.Generator, pixels: np.ndarray, clutter: float) -> None:
    """Strokes, blobs and foreign letters: what a detector has to tell from the objects."""
    side = len(pixels)
    for _ in range(round(rng.integers(0, 13) * clutter)):
        drawn = rng.integers(0, 4)
        x, y = rng.uniform(0, side, 2)
        size = side * 0.04 * 8 ** rng.uniform()
        if drawn == 0:
            contours = _transformed(outline(str(rng.choice(CLUTTER_LETTERS))), rng, size / 2, side)
        elif drawn == 1:
            corners = int(rng.integers(3, 9))
            radii = rng.uniform(0.4, 1, (corners, 1))
            radii[0] = 0.1  # a dent, so that no blob passes for a pentagon or a square
            contours = _transformed((_regular(corners) * radii,), rng, size / 2, side)
        else:
            thin = rng.uniform(0.02, 0.1)
            bar = np.array([[-1, -thin], [1, -thin], [1, thin], [-1, thin]])
            contours = _transformed((bar,), rng, size, 2 * side)
        rows, columns, alpha = _crop(*_coverage(contours, x, y), side)
        strength = int(rng.integers(60, 256))
        color = rng.integers(0, 256, 3)
        _paste(pixels[rows, columns], color, alpha.astype(np.int32) * strength // 255)


def _fill(rng: np.random.Generator, ground: np.ndarray, clutter: float) -> np.ndarray:
    """A color that stands off from the ground, with stripes or a gradient: (h, w, 3)."""
    height, width, _ = ground.shape
    mean = ground.reshape(-1, 3).mean(axis=0)
    color = rng.integers(0, 256, 3)
    for _ in range(8):
        if np.abs(color - mean).sum() >= 2 * MIN_CONTRAST:
            break
        color = rng.integers(0, 256, 3)
    across, down, period = rng.integers(-8, 9), rng.integers(-8, 9), int(rng.integers(64, 512))
    phase = np.arange(width) * across + np.arange(height)[:, None] * down
    wave = np.abs(phase % (2 * period) - period) * 128 // period - 64
    amount = round(rng.integers(0, 81) * min(clutter, 1.0))
    return np.clip(color + (wave * amount // 64)[..., None], 0, 255)


def draw(config: GlyphsData, split: str, index: int) -> tuple[np.ndarray, list[int], np.ndarray]:
    """One image: RGB uint8 (S, S, 3), category numbers from 0 (N,), visible masks (N, S, S)."""
    return draw_objects(config, _random(config.seed, split, index), _objects)


def draw_objects(
    config: GlyphsData,
    rng: np.random.Generator,
    choose: Callable[[np.random.Generator, GlyphsData], list[tuple[int, float]]],
) -> tuple[np.ndarray, list[int], np.ndarray]:
    """What `draw` returns, of chosen objects: (category number, square root of the area)."""
    side = config.image_size
    pixels = _ground(rng, side, config.clutter)
    _scatter(rng, pixels, config.clutter)

    owner = np.zeros((side, side), dtype=np.int32)  # 0 the ground, k the k-th object
    full = [side * side]
    visible = [side * side]
    labels: list[int] = []
    for label, size in choose(rng, config):
        shape_of_category = outline(config.categories[label])
        contours = _transformed(shape_of_category, rng, size, MAX_SPAN * side, config.max_rotation)
        margin = np.abs(contours[0]).max(axis=0) * 0.8
        for _ in range(NUM_PLACES):
            x, y = rng.uniform(np.minimum(margin, side / 2), np.maximum(side - margin, side / 2))
            rows, columns, alpha = _crop(*_coverage(contours, x, y), side)
            shape = alpha >= 128
            hidden = np.bincount(owner[rows, columns][shape], minlength=len(full))
            left = np.array(visible) - hidden
            if (left[1:] >= MIN_VISIBLE * np.array(full[1:])).all():
                break
        else:
            continue
        _paste(pixels[rows, columns], _fill(rng, pixels[rows, columns], config.clutter), alpha)
        labels.append(label)
        owner[rows, columns][shape] = len(labels)
        visible = [*left.tolist(), int(shape.sum())]
        full.append(int(shape.sum()))
    grain = round(rng.integers(0, 25) * config.clutter)
    noise = rng.integers(-grain, grain + 1, pixels.shape, dtype=np.int16)
    pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return pixels, labels, owner == np.arange(1, len(labels) + 1)[:, None, None]


def _objects(rng: np.random.Generator, config: GlyphsData) -> list[tuple[int, float]]:
    """(category number, square root of the area) of an image's objects, large ones mostly first."""
    num = int(rng.integers(0, config.max_objects + 1))
    labels = rng.integers(0, len(config.categories), num)
    ratio = config.max_size * config.image_size / config.min_size
    sizes = config.min_size * ratio ** rng.uniform(size=num)
    order = np.argsort(-sizes * rng.uniform(0.6, 1.6, num))
    return [(int(labels[k]), float(sizes[k])) for k in order]


# --- the data set -----------------------------------------------------------------------------


NOT_DRAWING = ("num_train", "num_val", "masks")
DRAWING_OPTIONS = {"categories": list(CATEGORIES), "max_rotation": HALF_TURN}
"""Fields that came later: at these values they change no picture and no fingerprint."""


class GlyphsDataset(DetectionDataset):
    """Glyph images, drawn when they are asked for."""

    def __init__(self, config: GlyphsData, split: str, max_images: int | None = None) -> None:
        config.check()
        self.config = config
        self.split = split
        num = config.num_train if split == "train" else config.num_val
        self._num = num if max_images is None else min(num, max_images)
        self.sizes = np.full((self._num, 2), config.image_size)
        self.categories = [
            {"id": k, "name": name} for k, name in enumerate(config.categories, start=1)
        ]
        self.has_masks = config.masks is not False
        drawing = {
            name: value
            for name, value in asdict(config).items()
            if name not in NOT_DRAWING and value != DRAWING_OPTIONS.get(name)
        }
        # pixels of the first image stand for the drawing code, the font and Pillow's rasterizer
        first = hashlib.sha256(draw(config, split, 0)[0].data).hexdigest()
        self.fingerprint = digest([drawing, split, self._num, self.has_masks, first])
        self.fingerprint_by_size = self.fingerprint
        self.checks = {"num_images": self._num, "has_masks": self.has_masks, "faults": []}

    def __len__(self) -> int:
        return self._num

    def example(self, index: int) -> Example:
        """Draw one image."""
        if not 0 <= index < self._num:
            raise IndexError(index)
        pixels, labels, masks = draw(self.config, self.split, index)
        side = self.config.image_size
        image = {
            "id": index + 1,
            "file_name": f"{self.split}/{index + 1:06d}.png",
            "width": side,
            "height": side,
        }
        annotations = []
        for label, mask, rle in zip(labels, masks, coco_masks.encode_bitmaps(masks), strict=True):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            left, top = int(columns[0]), int(rows[0])
            annotation = {
                "image_id": image["id"],
                "category_id": label + 1,
                "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                "area": int(mask.sum()),
                "iscrowd": 0,
            }
            if self.has_masks:
                annotation["segmentation"] = rle
            annotations.append(annotation)
        return pixels, image, annotations


def export_coco(config: GlyphsData, out: Path) -> None:
    """Write both splits as a COCO folder: images/{split}/, annotations/instances_{split}.json.

    Opened with `data=coco`, it gives the pixels and objects that drawing on the fly gives.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: give a new folder")
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        dataset = GlyphsDataset(config, split)
        (out / "images" / split).mkdir(parents=True)
        for index in tracked(range(len(dataset)), len(dataset), f"{split} images written"):
            pixels, image, _ = dataset.example(index)
            Image.fromarray(pixels).save(out / "images" / image["file_name"])
        file = out / "annotations" / f"instances_{split}.json"
        file.write_text(json.dumps(dataset.truth), encoding="utf-8")
