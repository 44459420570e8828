"""Image files: sizes from headers, and decoding to upright RGB.

Every failure is a `DataError` that names the file. Sizes are checked on the header, before a
decoder allocates anything.
"""

import io
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    IMAGEDESCRIPTION,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    TiffImageFile,
)

from ablations.progress import tracked

from .faults import DataError
from .threads import in_threads

MAX_PIXELS = 2**26
"""Larger images are refused: 67 million pixels, 200 MB as RGB. Below the size at which Pillow
itself warns of a decompression bomb."""

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
"""Pillow also opens formats that start other programs (EPS); photographs need none of them."""

MAX_LINK = 4096
"""Bytes that a link's target has at most on Linux."""

UNSCALED_MODES = ("I", "F")

ORIENTATION = 0x0112
"""EXIF's number of the tag that says how the stored pixels lie: 1 upright, 2 to 8 turned."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation -> what makes the stored pixels upright; 5 to 8 exchange width and height."""

TWELVE_BITS = 4095
"""Where 16 bits hold no larger value, 12 bits or fewer were never scaled to 16."""

FOURTEEN_BITS = 16383
"""Where 16 bits hold no larger value, they may be 14 that were never scaled, or a dark image."""

DEPTHS = range(8, 17)
"""Bits of a sample that a file of 16 may declare."""

MAX_SAMPLE_VALUE, S_MAX_SAMPLE_VALUE = 281, 341
"""TIFF's numbers of the tags that hold the largest value."""

REMEDY = "scale it to its full range and save it with 8 bits"
UNSCALED = (
    f"no value above {TWELVE_BITS} of 65535, so it is data of 12 bits or fewer in 16: {REMEDY}"
)


BASELINE, SCAN, END_OF_IMAGE = 0xC0, 0xDA, b"\xff\xd9"
"""Markers of a JPEG: its frame, where 8 bits and Huffman's code have it; its pixels; its end."""

LUMA_SAMPLINGS = (0x11, 0x21, 0x22, 0x12, 0x41, 0x42)
SAMPLINGS = {b"\x11", *(bytes((luma, 0x11, 0x11)) for luma in LUMA_SAMPLINGS)}
"""How often the components of a JPEG that nvJPEG takes are sampled, across and down: grey, 4:4:4,
4:2:2, 4:2:0, 4:4:0, 4:1:1 and 4:1:0."""


class Header(NamedTuple):
    """What is known of an image without decoding it.

    width, height: of the upright image
    depth_is_known: False where samples have 16 bits and the file does not say how many are used
    """

    width: int
    height: int
    depth_is_known: bool


def read_header(path: Path) -> Header:
    """The header of one image."""
    with _open(path) as image:
        width, height = _upright_size(image, _orientation(image, path))
        return Header(width, height, _bits(image) < 16 or _declared_bits(image, path) is not None)


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright image, from the header alone."""
    return read_header(path)[:2]


def read_headers(paths: list[Path], sources: list[str]) -> list[Header]:
    """`read_header` of many files; `sources` say in errors where each file is listed."""

    def header(index: int) -> Header:
        try:
            return read_header(paths[index])
        except DataError as error:
            raise DataError(f"{sources[index]}: {error}") from error

    headers = in_threads(header, range(len(paths)))
    return list(tracked(headers, len(paths), "image headers checked"))


def largest_sample(path: Path) -> int:
    """The largest value of an image of 16 bits; of colors the low byte is unknown. 0 if spoilt."""
    try:
        with _open(path) as image:
            if image.mode.startswith("I;16"):
                return int(np.asarray(image).max())
            return 256 * int(np.asarray(image.convert("RGB")).max()) + 255
    except Exception:  # told when it is decoded for use
        return 0


def read_image(
    path: Path, width: int, height: int, used: tuple[int, int] | None = None
) -> np.ndarray:
    """Decode to upright RGB (height, width, 3) uint8; any other size than this is refused.

    A JPEG that is `used` at (height, width) is decoded at a half, a quarter or an eighth of its
    size where that is large enough, which leaves out the decoding of what is finer.
    """
    with _open(path) as image:
        orientation = _orientation(image, path)
        reduction = 1
        try:
            if used is not None and (width, height) == _upright_size(image, orientation):
                reduction = _reduce(image, used if orientation < 5 else used[::-1])
            pixels = np.array(_upright_rgb(image, orientation, path))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except Exception as error:  # name the file whatever the decoder raises
            raise DataError(
                f"{path}: cannot be decoded ({error}): fetch the file again, or remove the image"
            ) from error
    if pixels.shape != (-(-height // reduction), -(-width // reduction), 3):
        raise DataError(
            f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels, expected {width}x{height}: "
            "the file changed, or width and height in the annotations are wrong"
        )
    return pixels


def read_plain_jpeg(path: Path, width: int, height: int) -> np.ndarray | None:
    """The file (N,) uint8 where it is a JPEG that nvJPEG decodes to this very image, else None.

    It is whole, upright, baseline, and grey or YCbCr. What is wrong with a file, `read_image` says.
    """
    try:
        with _open(path) as image:
            is_plain = (
                (image.format, image.size) == ("JPEG", (width, height))
                and image.info.get("adobe_transform") != 0  # RGB
                and _orientation(image, path) == 1
            )
    except DataError:
        return None
    if not is_plain:
        return None
    data = np.fromfile(path, dtype=np.uint8)
    is_whole = data[-2:].tobytes() == END_OF_IMAGE  # nvJPEG may take what is cut off without a word
    return data if is_whole and _has_plain_frame(data.data) else None


def _has_plain_frame(data: memoryview) -> bool:
    """Whether a JPEG's first frame is baseline, grey or YCbCr, and sampled as nvJPEG takes it."""
    at = 2
    while at + 4 < len(data) and data[at] == 0xFF and data[at + 1] not in (BASELINE, SCAN):
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    if bytes(data[at : at + 2]) != bytes((0xFF, BASELINE)):
        return False
    components = bytes(data[at + 10 : at + 10 + 3 * data[at + 9]])
    return components[::3] != b"RGB" and components[1::3] in SAMPLINGS


def _open(path: Path) -> Image.Image:
    """Read the header; refuse what is no image, has no known range, or is too large to decode."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError("not a regular file")
        image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: image too large to decode ({error}): remove it") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image file: check the image folder") from error
    except Exception as error:  # whatever a broken header makes Pillow raise, name the file
        if foreign := _foreign(path):
            raise DataError(f"{path}: {foreign}") from error
        raise DataError(
            f"{path}: not a readable {', '.join(FORMATS)} image ({error}): fetch the file again"
        ) from error
    if isinstance(image, TiffImageFile):
        image.filename = ""  # keeps Pillow from mapping the file: it maps turned ones wrongly
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise DataError(
            f"{path}: {width}x{height} pixels, more than {MAX_PIXELS}: scale it down or remove it"
        )
    if image.mode in UNSCALED_MODES:
        image.close()
        raise DataError(
            f"{path}: pixels of mode {image.mode} (32 bits, or signed) have no known range: "
            "save it with 8 bits"
        )
    return image


def _foreign(path: Path) -> str | None:
    """What a file is that cannot be opened, told by its first bytes, and the remedy."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            head = file.read(MAX_LINK)
    except OSError:
        return None
    if name := _foreign_format(head):
        return f"{name}: convert it to JPEG or PNG"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image itself: run 'git lfs pull'"
    try:
        target = head.decode().strip()
        if target and (path.parent / target).exists():
            return f"the text {target!r}, a link that was copied as a file: copy links as links"
    except (OSError, ValueError):  # no text, or no path
        pass
    return None


def _foreign_format(head: bytes) -> str | None:
    if head[4:8] == b"ftyp":  # ISO media: the brands say which
        brands = {head[k : k + 4] for k in range(8, 64, 4)}
        if brands & {b"avif", b"avis"}:
            return "an AVIF image"
        if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
            return "a HEIC image"
        return "a video, or an image of its kind"
    if head[128:132] == b"DICM":
        return "a DICOM image"
    for start, name in (
        (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
        (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
        (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
        (b"\xff\x0a", "a JPEG XL image"),
        (b"8BPS", "a Photoshop file"),
        (b"%PDF", "a PDF file"),
        *((f"P{k}".encode(), "a PNM image") for k in range(1, 8)),
        (b"\x00\x00\x01\x00", "an icon"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"PK\x03\x04", "a zip archive, perhaps of NumPy arrays"),
        (b"SIMPLE  =", "a FITS image"),
        (b"\x76\x2f\x31\x01", "an OpenEXR image"),
        (b"#?RADIANCE", "a Radiance image"),
        (b"<svg", "an SVG drawing"),
    ):
        if head.startswith(start):
            return name
    return None


# --- orientation: one function for size and pixels ------------------------------------------------


def _orientation(image: Image.Image, path: Path) -> int:
    """How the stored pixels lie, 1 to 8: EXIF's tag or, without it, XMP's, as Pillow reads them."""
    try:
        noted = _png_notes(path) if isinstance(image, PngImageFile) else image
        # not PngImageFile's own, which decodes a whole image to look for notes behind the pixels
        value = Image.Image.getexif(noted).get(ORIENTATION, 1)
    except Exception as error:
        raise DataError(f"{path}: EXIF cannot be read ({error}): strip it from the file") from error
    return value if value in TURNS else 1


_PROFILES: tuple[tuple[str, bytes | tuple[bytes, ...], str], ...] = (
    ("APP1", (b"Exif\0\0", b"II", b"MM"), "exif"),
    ("APP1", b"http://ns.adobe.com/xap/1.0/\0", "xmp"),
    ("xmp", b"<", "xmp"),
)
"""ImageMagick's text profiles that Pillow does not read: name, what one begins with, and Pillow's
name for it."""


def _png_notes(path: Path) -> Image.Image:
    """The PNG without its pixels, so that EXIF and XMP behind them are read like those before."""
    kept = _png_chunks(path, (b"IHDR", b"eXIf", b"tEXt", b"zTXt", b"iTXt"))
    no_pixels = struct.pack(">I4s", 0, b"IDAT")
    notes = PngImageFile(io.BytesIO(b"".join([b"\x89PNG\r\n\x1a\n", *kept, no_pixels])))
    for name, start, kind in _PROFILES:
        text = notes.info.get(f"Raw profile type {name}", "")
        profile = bytes.fromhex("".join(text.split("\n")[3:]))
        if kind not in notes.info and profile.startswith(start):
            notes.info[kind] = profile
    return notes


def _png_chunks(path: Path, names: tuple[bytes, ...]) -> Iterator[bytes]:
    """The chunks of these names, each with its length and name (8 bytes) and checksum (4)."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if name in names:
                yield head + file.read(length + 4)
            else:
                file.seek(length + 4, io.SEEK_CUR)


def _upright_size(image: Image.Image, orientation: int) -> tuple[int, int]:
    """(width, height) as they are once the pixels are upright."""
    width, height = _stored_size(image)
    return (height, width) if orientation >= 5 else (width, height)


def _reduce(image: Image.Image, used: tuple[int, int]) -> int:
    """By what a JPEG, still undecoded, is reduced to no less than `used`; 1 for other files."""
    if not isinstance(image, JpegImageFile):
        return 1
    width = image.width
    image.draft(None, (used[1], used[0]))
    return max(part for part in (1, 2, 4, 8) if -(-width // part) == image.width)


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of the pixels as stored; for TIFFs, `Image.size` depends on Pillow."""
    if isinstance(image, TiffImageFile):
        return image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
    return image.size


def _upright_rgb(image: Image.Image, orientation: int, path: Path) -> Image.Image:
    """RGB made upright; Pillow turns TIFFs itself as it decodes them."""
    rgb = _as_rgb(image, path)
    if isinstance(image, TiffImageFile) or orientation not in TURNS:
        return rgb
    return rgb.transpose(TURNS[orientation])


# --- to 8-bit RGB --------------------------------------------------------------------------------


def _as_rgb(image: Image.Image, path: Path) -> Image.Image:
    bits = _bits(image)
    declared = _declared_bits(image, path) if bits == 16 else bits
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips everything above 255
        wide = np.asarray(image).astype(np.uint32)
        top = 2**bits - 1
        if declared is None:
            if 0 < wide.max() <= TWELVE_BITS:
                raise DataError(UNSCALED)
        elif wide.max() < 2**declared and not _is_scaled(image, wide, declared):
            top = 2**declared - 1
        narrow = ((wide * 255 + top // 2) // top).astype(np.uint8)
        return Image.fromarray(255 - narrow if _is_negative(image) else narrow).convert("RGB")
    if image.mode == "P":  # by way of RGBA: a palette may carry its transparency as bytes
        return image.convert("RGBA").convert("RGB")
    rgb = image.convert("RGB")
    if bits == 16:  # Pillow keeps the high byte of 16-bit colors
        highest = int(np.asarray(rgb).max())
        if declared is not None and 0 < highest <= (2**declared - 1) >> 8 < 255:
            raise DataError(
                f"no value above {2**declared - 1} of 65535, and it says that it is data of "
                f"{declared} bits: {REMEDY}"
            )
        if declared is None and highest <= TWELVE_BITS >> 8:
            raise DataError(UNSCALED)
    return rgb


def _bits(image: Image.Image) -> int:
    """Bits of a sample as stored, up to 16; asked before the image is decoded."""
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2.get(BITSPERSAMPLE, (1,)))
    return 16 if isinstance(image, PngImageFile) and ";16" in str(image.tile[0][3]) else 8


def _declared_bits(image: Image.Image, path: Path) -> int | None:
    """How many of a sample's 16 bits the file says are used; None where it does not say.

    A TIFF by its largest value where that is all ones (else it is a mere statistic), or by OME's
    SignificantBits; a PNG by its chunk sBIT.
    """
    if isinstance(image, TiffImageFile):
        for tag in (MAX_SAMPLE_VALUE, S_MAX_SAMPLE_VALUE):
            noted = image.tag_v2.get(tag)
            largest = noted[0] if isinstance(noted, tuple) else noted
            for bits in DEPTHS:
                if largest == 2**bits - 1:
                    return bits
        noted = re.search(r'SignificantBits="(\d+)"', str(image.tag_v2.get(IMAGEDESCRIPTION)))
        bits = int(noted[1]) if noted else 0
    else:
        chunk = next(_png_chunks(path, (b"sBIT",)), bytes(12))
        bits = max(chunk[8:-4], default=0)
    return bits if bits in DEPTHS else None


def _is_scaled(image: Image.Image, samples: np.ndarray, bits: int) -> bool:
    """Whether samples of so many bits were brought to 16, as PNG asks: one of three ways made them.

    samples: uint32
    """
    if not isinstance(image, PngImageFile):
        return False
    shift, top = 16 - bits, 2**bits - 1
    high = samples >> shift
    with_zeros = high << shift
    repeated = with_zeros | high >> (bits - shift)
    linear = (high * 65535 + top // 2) // top
    return any(np.array_equal(samples, way) for way in (with_zeros, repeated, linear))


def _is_negative(image: Image.Image) -> bool:
    """Whether 0 is white, which Pillow leaves as it is where samples have 16 bits."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
