"""Image files: paths that stay in their folder, sizes from headers, and decoding to upright RGB.

Every failure is a `DataError` that names the file. Sizes are checked on the header, before a
decoder allocates anything.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageOps

from ablations.progress import tracked

from .faults import DataError

MAX_PIXELS = 2**26
"""Larger images are refused: 67 million pixels, 200 MB as RGB. Below the size at which Pillow
itself warns of a decompression bomb."""

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
"""Pillow also opens formats that start other programs (EPS); photographs need none of them."""

HEADER_THREADS = 16

EXIF_ORIENTATION = 0x0112
SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
UNSCALED_MODES = ("I", "F")


def path_inside(folder: Path, name: str, source: str) -> Path:
    """The file `name` of `folder`, refused when it, or a link on its way, leaves the folder.

    `folder` must be resolved already; `source` says in the error where the name stands.
    """
    if not name or "\0" in name:
        raise DataError(f"{source}: file_name is {name!r}: give the image's path in {folder}")
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise DataError(
            f"{source}: file_name {name!r} leaves the image folder {folder}: "
            "write it relative to that folder, without '..'"
        )
    try:
        path = Path(os.path.realpath(folder / name))
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: file_name {name!r} is no path ({error}): correct it") from error
    if not path.is_relative_to(folder):
        raise DataError(
            f"{source}: file_name {name!r} is a link that leaves the image folder {folder}: "
            "name the folder that holds the files themselves as the image folder"
        )
    return path


def _open(path: Path) -> Image.Image:
    """Read the header; refuse what is no image, or too large to decode."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError("not a regular file")
        image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: image too large to decode ({error}): remove it") from error
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such image file: check the image folder and file_name"
        ) from error
    except Exception as error:  # whatever a broken header makes Pillow raise, name the file
        raise DataError(
            f"{path}: not a readable {', '.join(FORMATS)} image ({error}): fetch the file again"
        ) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise DataError(
            f"{path}: {width}x{height} pixels, more than {MAX_PIXELS}: scale it down or remove it"
        )
    return image


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright image, from the header alone."""
    with _open(path) as image:
        width, height = image.size
        # asked for EXIF, Pillow decodes a whole PNG to look for it behind the pixels
        if image.format == "PNG" and "exif" not in image.info:
            return width, height
        try:
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        except Exception as error:
            raise DataError(
                f"{path}: EXIF cannot be read ({error}): strip it from the file"
            ) from error
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def image_sizes(paths: list[Path]) -> list[tuple[int, int]]:
    """`image_size` of many files, in threads: on network disks the waiting is what takes time."""
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        return list(tracked(pool.map(image_size, paths), len(paths), "image headers checked"))


def read_image(path: Path, width: int, height: int) -> np.ndarray:
    """Decode to upright RGB (height, width, 3) uint8; any other size than this is refused."""
    with _open(path) as image:
        try:
            ImageOps.exif_transpose(image, in_place=True)
            pixels = np.array(_as_rgb(image))
        except Exception as error:  # name the file whatever the decoder raises
            raise DataError(
                f"{path}: cannot be decoded ({error}): fetch the file again, or remove the image"
            ) from error
    if pixels.shape != (height, width, 3):
        raise DataError(
            f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels, expected {width}x{height}: "
            "the file changed, or width and height in the annotations are wrong"
        )
    return pixels


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BIT_MODES:  # Pillow's own conversion clips everything above 255
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in UNSCALED_MODES:
        raise ValueError(f"pixels of mode {image.mode} have no known range; save it with 8 bits")
    if image.mode == "P":  # by way of RGBA: a palette may carry its transparency as bytes
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
