"""Image files of every kind: size and pixels agree however they are turned, whatever the depth."""

import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ablations.data import CocoData, DataError, open_data
from ablations.data.images import image_size, read_header, read_image

UPRIGHT = np.zeros((48, 64, 3), np.uint8)
UPRIGHT[:24, :32] = (200, 30, 30)
UPRIGHT[24:, :32] = (30, 200, 30)
UPRIGHT[:24, 32:] = (30, 30, 200)
UPRIGHT[24:, 32:] = (220, 220, 220)

STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
"""What lies where, by EXIF 2.3's table of tag 274: stored row 0 and column 0 are these sides
(5: left and top, 6: right and top, 7: right and bottom, 8: left and bottom)."""


def exif(orientation: int) -> Image.Exif:
    notes = Image.Exif()
    notes[0x0112] = orientation
    return notes


def xmp(orientation: int) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        f'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png_with(note: Callable[[int], bytes], *, behind: bool) -> Callable[..., None]:
    """A PNG with a chunk before or behind its pixels."""

    def save(image: Image.Image, path: Path, orientation: int) -> None:
        image.save(path)
        content = path.read_bytes()
        at = content.index(b"IEND" if behind else b"IDAT") - 4
        path.write_bytes(content[:at] + note(orientation) + content[at:])

    return save


def exif_chunk(orientation: int) -> bytes:
    return chunk(b"eXIf", exif(orientation).tobytes()[6:])


def xmp_chunk(orientation: int) -> bytes:
    return chunk(b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + xmp(orientation))


def profile(orientation: int) -> bytes:
    """EXIF as ImageMagick wrote it into PNGs: hexadecimal text under a heading."""
    content = exif(orientation).tobytes()
    return f"\nexif\n{len(content):8}\n{content.hex()}\n".encode()


def profile_chunk(orientation: int) -> bytes:
    return chunk(b"tEXt", b"Raw profile type exif\0" + profile(orientation))


def packed_profile_chunk(orientation: int) -> bytes:
    return chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile(orientation)))


def named_profile(name: str, content: bytes, chunk_type: bytes = b"tEXt") -> bytes:
    """Any profile in ImageMagick's way, whose hexadecimal text has lines of 72 letters."""
    lines = "\n".join(re.findall(".{1,72}", content.hex()))
    text = f"\n{name}\n{len(content):8}\n{lines}\n".encode()
    key = f"Raw profile type {name}".encode()
    if chunk_type == b"zTXt":
        return chunk(chunk_type, key + b"\0\0" + zlib.compress(text))
    return chunk(chunk_type, key + (b"\0" if chunk_type == b"tEXt" else bytes(5)) + text)


def app1(chunk_type: bytes, start: bytes = b"Exif\0\0") -> Callable[[int], bytes]:
    def note(orientation: int) -> bytes:
        tags = exif(orientation).tobytes().removeprefix(b"Exif\0\0")
        return named_profile("APP1", start + tags, chunk_type)

    return note


def app1_xmp(orientation: int) -> bytes:
    return named_profile("APP1", b"http://ns.adobe.com/xap/1.0/\0" + xmp(orientation))


def xmp_profile(orientation: int) -> bytes:
    return named_profile("xmp", xmp(orientation))


def tiff(**options: Any) -> Callable[..., None]:
    def save(image: Image.Image, path: Path, orientation: int) -> None:
        tags = ImageFileDirectory_v2()
        tags[274] = orientation
        image.save(path, tiffinfo=tags, **options)

    return save


def tiff_with_xmp(image: Image.Image, path: Path, orientation: int) -> None:
    tags = ImageFileDirectory_v2()
    tags.tagtype[700] = 1
    tags[700] = xmp(orientation)
    image.save(path, tiffinfo=tags)


def tiff_of_two_pages(image: Image.Image, path: Path, orientation: int) -> None:
    tags = ImageFileDirectory_v2()
    tags[274] = orientation
    image.save(path, tiffinfo=tags, save_all=True, append_images=[Image.new("RGB", (7, 5))])


def jpeg_of_two_pictures(image: Image.Image, path: Path, orientation: int) -> None:
    """As phones write: a second picture behind the first."""
    more = [Image.new("RGB", (7, 5))]
    image.save(path, "MPO", quality=95, save_all=True, append_images=more, exif=exif(orientation))


WRITERS: dict[str, Callable[..., None]] = {
    "jpeg_exif": lambda image, path, k: image.save(path, quality=95, exif=exif(k)),
    "jpeg_xmp": lambda image, path, k: image.save(path, quality=95, xmp=xmp(k)),
    "jpeg_pictures": jpeg_of_two_pictures,
    "webp_exif": lambda image, path, k: image.save(path, lossless=True, exif=exif(k)),
    "webp_xmp": lambda image, path, k: image.save(path, lossless=True, xmp=xmp(k)),
    "tiff_raw": tiff(),
    "tiff_lzw": tiff(compression="tiff_lzw"),
    "tiff_jpeg": tiff(compression="jpeg", quality=95),
    "tiff_xmp": tiff_with_xmp,
    "tiff_64_bit": tiff(big_tiff=True),
    "tiff_pages": tiff_of_two_pages,
    "png_exif": png_with(exif_chunk, behind=False),
    "png_exif_behind": png_with(exif_chunk, behind=True),
    "png_xmp": png_with(xmp_chunk, behind=False),
    "png_xmp_behind": png_with(xmp_chunk, behind=True),
    "png_profile": png_with(profile_chunk, behind=False),
    "png_profile_behind": png_with(profile_chunk, behind=True),
    "png_packed_profile": png_with(packed_profile_chunk, behind=False),
    "png_packed_profile_behind": png_with(packed_profile_chunk, behind=True),
    "png_app1": png_with(app1(b"tEXt"), behind=False),
    "png_app1_without_name": png_with(app1(b"tEXt", start=b""), behind=False),
    "png_app1_packed_behind": png_with(app1(b"zTXt"), behind=True),
    "png_app1_international": png_with(app1(b"iTXt"), behind=False),
    "png_app1_xmp": png_with(app1_xmp, behind=False),
    "png_xmp_profile_behind": png_with(xmp_profile, behind=True),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", WRITERS)
def test_size_and_pixels_are_those_of_the_upright_image(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    path = tmp_path / f"image.{kind.partition('_')[0]}"
    stored = np.ascontiguousarray(STORED[orientation](UPRIGHT))
    WRITERS[kind](Image.fromarray(stored), path, orientation)
    assert image_size(path) == (64, 48)
    difference = np.abs(read_image(path, 64, 48).astype(int) - UPRIGHT)
    assert np.median(difference) <= 4
    assert (difference > 60).mean() < 0.05  # JPEG rings at the edges


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_turned_tiffs_of_every_mode(
    tmp_path: Path, mode: str, compression: str | None, orientation: int
) -> None:
    """Uncompressed files of these modes Pillow maps into memory."""
    path = tmp_path / "image.tif"
    gray = UPRIGHT[..., 1]
    stored = np.ascontiguousarray(STORED[orientation](gray))
    if mode == "I;16":
        image = Image.fromarray(stored.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(stored).convert("RGB")
        image = image.quantize(8) if mode == "P" else image.convert(mode)
    tiff(compression=compression)(image, path, orientation)
    assert image_size(path) == (64, 48)
    assert np.abs(read_image(path, 64, 48)[..., 0].astype(int) - gray).max() <= 1


@pytest.mark.parametrize("orientation", [0, 9, 65535])
@pytest.mark.parametrize("kind", ["jpeg_exif", "png_exif_behind", "tiff_raw"])
def test_orientations_that_do_not_exist_turn_nothing(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    path = tmp_path / f"image.{kind.partition('_')[0]}"
    WRITERS[kind](Image.fromarray(UPRIGHT), path, orientation)
    assert image_size(path) == (64, 48)
    assert np.median(np.abs(read_image(path, 64, 48).astype(int) - UPRIGHT)) <= 4


def test_an_app1_profile_of_something_else_turns_nothing(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    note = named_profile("APP1", b"http://ns.adobe.com/xmp/extension/\0" + xmp(6))
    png_with(lambda _: note, behind=False)(Image.fromarray(UPRIGHT), path, 6)
    assert image_size(path) == (64, 48)


def test_exif_goes_before_xmp(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](UPRIGHT)))
    stored.save(path, exif=exif(6), xmp=xmp(1))
    assert image_size(path) == (64, 48)


@pytest.mark.parametrize("kind", ["png_exif_behind", "png_xmp", "png_profile_behind", "png_app1"])
def test_spoilt_notes_are_refused_by_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.png"
    WRITERS[kind](Image.fromarray(UPRIGHT), path, 6)
    content = bytearray(path.read_bytes())
    at = max(content.find(name) for name in (b"eXIf", b"XML:", b"Raw profile"))
    content[at + 30 : at + 40] = b"\xff" * 10  # the checksum no longer fits
    path.write_bytes(content)
    for ask in (lambda: image_size(path), lambda: read_image(path, 64, 48)):
        with pytest.raises(DataError, match=r"image\.png"):
            ask()


@pytest.mark.parametrize(("name", "loads"), [("exif6_tif", True), ("png_xmp_upright", True),
                                             ("png_xmp_stored", False)])  # fmt: skip
def test_turned_images_found_in_the_wild(shared: Path, name: str, loads: bool) -> None:
    """`png_xmp_stored` lists the size of the stored pixels, which is not the upright image's."""
    root = shared / "data" / "found" / name
    config = CocoData(root=str(root), train="a.json", val="a.json", masks=False)
    if not loads:
        with pytest.raises(DataError, match=r"image 1: .*48x64.* 64x48 upright"):
            open_data(config, "val")
        return
    dataset = open_data(config, "val")
    for index in range(len(dataset)):
        pixels = dataset.image(index).astype(int)
        x, y, width, height = dataset.annotations(index)[1][0]["bbox"]
        inside = np.zeros(pixels.shape[:2], bool)
        inside[y : y + height, x : x + width] = True
        ground = pixels[0, 0]
        assert ((pixels != ground).any(axis=2) == inside).all()


# --- depth ---------------------------------------------------------------------------------------

RAMP = np.linspace(0, 1, 64 * 48).reshape(48, 64)


def pack_12_bits(values: np.ndarray) -> bytes:
    """Two samples in three bytes, the first one's high bits first, as in TIFF."""
    even, odd = values.ravel()[::2], values.ravel()[1::2]
    packed = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], axis=1)
    return packed.astype(np.uint8).tobytes()


def tiff_file(samples: bytes, *, bits: int, photometric: int = 1, bands: int = 1) -> bytes:
    """A little-endian TIFF of 64 x 48 pixels without compression, tag by tag (TIFF 6.0)."""
    tags = [
        (256, 3, 1, 64), (257, 3, 1, 48), (258, 3, 1, bits), (259, 3, 1, 1),
        (262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, bands), (278, 3, 1, 48),
        (279, 4, 1, len(samples)),
    ]  # fmt: skip
    if bands == 3:  # three numbers do not fit into the entry
        tags[2] = (258, 3, 3, 8 + len(samples) + 2 + 12 * len(tags) + 4)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags)
    header = b"II*\0" + struct.pack("<I", 8 + len(samples))
    return header + samples + directory + bytes(4) + struct.pack("<HHH", bits, bits, bits)


def test_twelve_packed_bits_are_scaled_by_their_depth(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(tiff_file(pack_12_bits((RAMP * 4095).astype(int)), bits=12))
    assert np.abs(read_image(path, 64, 48)[..., 0] - RAMP * 255).max() <= 1


@pytest.mark.parametrize("top", [255, 1023, 4095])
@pytest.mark.parametrize("kind", ["tif", "png"])
def test_few_bits_in_sixteen_are_refused_not_darkened(tmp_path: Path, kind: str, top: int) -> None:
    path = tmp_path / f"image.{kind}"
    Image.fromarray((RAMP * top).astype(np.uint16)).save(path)
    with pytest.raises(DataError, match=r"image\..*12 bits or fewer.*8 bits"):
        read_image(path, 64, 48)


@pytest.mark.parametrize("kind", ["tif", "png"])
def test_sixteen_bits_are_scaled(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"image.{kind}"
    Image.fromarray((RAMP * 65535).astype(np.uint16)).save(path)
    assert np.abs(read_image(path, 64, 48)[..., 0] - RAMP * 255).max() <= 1


def test_black_is_black_at_any_depth(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(path)
    assert not read_image(path, 64, 48).any()


def test_sixteen_bits_where_zero_is_white(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    samples = (65535 - RAMP * 65535).astype("<u2").tobytes()
    path.write_bytes(tiff_file(samples, bits=16, photometric=0))
    assert np.abs(read_image(path, 64, 48)[..., 0] - RAMP * 255).max() <= 1


@pytest.mark.parametrize(("top", "fits"), [(65535, True), (4095, False)])
def test_sixteen_bit_colors(tmp_path: Path, top: int, fits: bool) -> None:
    path = tmp_path / "image.tif"
    samples = np.repeat((RAMP * top).astype("<u2"), 3).tobytes()
    path.write_bytes(tiff_file(samples, bits=16, photometric=2, bands=3))
    if fits:
        assert np.abs(read_image(path, 64, 48) - RAMP[..., None] * 255).max() <= 1
    else:
        with pytest.raises(DataError, match="12 bits or fewer"):
            read_image(path, 64, 48)


@pytest.mark.parametrize("top", [65535, 4095])
def test_sixteen_bit_png_colors(tmp_path: Path, top: int) -> None:
    rows = np.repeat((RAMP * top).astype(">u2")[..., None], 3, axis=2)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    path = tmp_path / "image.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
    if top == 65535:
        assert np.abs(read_image(path, 64, 48) - RAMP[..., None] * 255).max() <= 1
    else:
        with pytest.raises(DataError, match="12 bits or fewer"):
            read_image(path, 64, 48)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_without_a_known_range_are_refused_before_they_are_decoded(
    tmp_path: Path, dtype: Any
) -> None:
    path = tmp_path / "image.tif"
    Image.fromarray((RAMP * 1000).astype(dtype)).save(path)
    with pytest.raises(DataError, match=r"image\.tif.*8 bits"):
        image_size(path)


# --- depth that the file declares ----------------------------------------------------------------


def png_16(samples: np.ndarray, significant: bytes = b"") -> bytes:
    """A PNG of 16 bits, gray (H, W) or colors (H, W, 3), with a chunk sBIT."""
    color = 0 if samples.ndim == 2 else 2
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, color, 0, 0, 0))
        + (chunk(b"sBIT", significant) if significant else b"")
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def gray(path: Path, samples: np.ndarray, declared: str, bits: int) -> Path:
    """A gray image of 16 bits that says how many of them are used."""
    tags = {"MaxSampleValue": (281, 2**bits - 1), "SMaxSampleValue": (341, float(2**bits - 1))}
    tags["OME"] = (270, f'<OME><Pixels SignificantBits="{bits}" Type="uint16"/></OME>')
    if declared == "sBIT":
        path = path.with_suffix(".png")
        path.write_bytes(png_16(samples, bytes([bits])))
    else:
        path = path.with_suffix(".tif")
        number, value = tags[declared]
        Image.fromarray(samples.astype(np.uint16)).save(path, tiffinfo={number: value})
    return path


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("declared", ["MaxSampleValue", "SMaxSampleValue", "OME", "sBIT"])
def test_declared_bits_are_scaled_to_their_full_range(
    tmp_path: Path, declared: str, bits: int
) -> None:
    samples = np.round(RAMP * (2**bits - 1)).astype(int)
    path = gray(tmp_path / "image", samples, declared, bits)
    assert np.abs(read_image(path, 64, 48)[..., 0] - RAMP * 255).max() <= 1
    assert read_header(path).depth_is_known


@pytest.mark.parametrize("declared", ["MaxSampleValue", "sBIT"])
def test_a_dark_image_of_declared_bits_stays_dark(tmp_path: Path, declared: str) -> None:
    path = gray(tmp_path / "image", np.round(RAMP * 3000).astype(int), declared, 14)
    assert np.abs(read_image(path, 64, 48)[..., 0] - RAMP * 3000 / 16383 * 255).max() <= 1


@pytest.mark.parametrize("scaling", ["zeros", "repeated", "linear"])
@pytest.mark.parametrize("top", [1, 0.1])
def test_bits_that_were_scaled_as_png_asks_are_not_scaled_again(
    tmp_path: Path, scaling: str, top: float
) -> None:
    """PNG's sBIT says how many bits there were before; dark images too (`top`)."""
    few = np.round(RAMP * top * 4095).astype(int)
    samples = {
        "zeros": few << 4,
        "repeated": few << 4 | few >> 8,
        "linear": np.round(few * 65535 / 4095).astype(int),
    }[scaling]
    path = gray(tmp_path / "image", samples, "sBIT", 12)
    assert np.abs(read_image(path, 64, 48)[..., 0] - RAMP * top * 255).max() <= 1


def test_a_largest_value_that_is_a_mere_statistic_declares_nothing(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    samples = np.round(RAMP * 20000).astype(np.uint16)
    Image.fromarray(samples).save(path, tiffinfo={281: 20000})
    assert np.abs(read_image(path, 64, 48)[..., 0] - RAMP * 20000 / 65535 * 255).max() <= 1
    assert not read_header(path).depth_is_known


def test_a_declaration_that_the_pixels_belie_is_not_believed(tmp_path: Path) -> None:
    path = gray(tmp_path / "image", np.round(RAMP * 65535).astype(int), "MaxSampleValue", 12)
    assert np.abs(read_image(path, 64, 48)[..., 0] - RAMP * 255).max() <= 1


def test_colors_of_few_declared_bits_are_refused_since_their_low_bytes_are_lost(
    tmp_path: Path,
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(png_16(np.repeat((RAMP * 16383).astype(int)[..., None], 3, 2), b"\x0e" * 3))
    with pytest.raises(DataError, match=r"image\.png.*16383.*14 bits.*8 bits"):
        read_image(path, 64, 48)
    path.write_bytes(png_16(np.repeat((RAMP * 65535).astype(int)[..., None], 3, 2), b"\x0e" * 3))
    assert np.abs(read_image(path, 64, 48) - RAMP[..., None] * 255).max() <= 1


def deep_folder(root: Path, *tops: int) -> CocoData:
    """Images of 16 bits whose largest values these are; nothing declares a depth."""
    images = []
    for k, top in enumerate(tops, start=1):
        images.append({"id": k, "file_name": f"{k}.png"})
        (root / f"{k}.png").write_bytes(png_16((RAMP * top).astype(int)))
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81}
    content = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": [box]}
    (root / "a.json").write_text(json.dumps(content))
    return CocoData(root=str(root), train="a.json", val="a.json", images=".")


def test_images_that_may_hold_fewer_bits_are_told(tmp_path: Path) -> None:
    (fault,) = open_data(deep_folder(tmp_path, 16383, 9000, 16000), "train").checks["faults"]
    assert (fault["rule"], fault["count"]) == ("depth_in_doubt", 3)
    assert "1.png" in fault["examples"][0]
    assert "no value above 16383 of 65535 in 3 images" in fault["examples"][0]


def test_one_bright_image_tells_the_depth_of_all(tmp_path: Path) -> None:
    assert not open_data(deep_folder(tmp_path, 16383, 60000), "train").checks["faults"]


def test_images_that_were_never_scaled_are_refused_when_they_are_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image 2: .*2\.png: no value above 4095.*8 bits"):
        open_data(deep_folder(tmp_path, 65535, 4095), "train")


# --- other formats -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"),
        ("AVIF", b"\0\0\0\x1cftypavif\0\0\0\0mif1avif"),
        ("AVIF", b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif"),
        ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n"),
        ("JPEG 2000", b"\xff\x4f\xff\x51\0\x2f"),
        ("JPEG XL", b"\xff\x0a\xfa\x1f"),
        ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n"),
    ],
)
@pytest.mark.parametrize("ending", ["jpg", "heic"])
def test_other_formats_are_named_whatever_the_file_is_called(
    tmp_path: Path, name: str, head: bytes, ending: str
) -> None:
    path = tmp_path / f"image.{ending}"
    path.write_bytes(head + bytes(500))
    with pytest.raises(DataError, match=rf"image\.{ending}.* {name} .*convert it to JPEG or PNG"):
        image_size(path)


@pytest.mark.parametrize(("kind", "name"), [("AVIF", "AVIF"), ("JPEG2000", "JPEG 2000")])
def test_real_files_of_other_formats_are_named(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / "image.jpg"
    Image.fromarray(UPRIGHT).save(path, kind)
    with pytest.raises(DataError, match=name):
        image_size(path)


def test_links_that_were_copied_as_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "images").mkdir()
    Image.fromarray(UPRIGHT).save(tmp_path / "store" / "1.png")
    path = tmp_path / "images" / "1.png"
    path.write_text("../store/1.png")
    with pytest.raises(
        DataError, match=r"images.1\.png: the text '../store/1\.png'.*links as links"
    ):
        image_size(path)
    path.write_text("../store/2.png")
    with pytest.raises(DataError, match="not a readable"):
        image_size(path)


def test_pointers_of_git_lfs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234\n")
    with pytest.raises(DataError, match=r"image\.jpg: a Git LFS pointer.*git lfs pull"):
        image_size(path)


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(UPRIGHT).save(path)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"image\.png.*Permission denied"):
        image_size(path)


# --- decoded at a part of its size ----------------------------------------------------------------


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=2).astype(np.uint8)


@pytest.mark.parametrize("orientation", STORED)
def test_a_jpeg_is_decoded_at_the_smallest_part_that_is_large_enough(
    tmp_path: Path, orientation: int
) -> None:
    pixels = smooth(241, 322)
    path = tmp_path / "a.jpg"
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](pixels)))
    stored.save(path, quality=95, exif=exif(orientation))
    for used, size in (
        ((241, 322), (241, 322)),
        ((121, 162), (241, 322)),  # half of it would be too narrow
        ((120, 161), (121, 161)),
        ((60, 70), (61, 81)),
        ((5, 5), (31, 41)),
    ):
        found = read_image(path, 322, 241, used)
        assert found.shape == (*size, 3)
        expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BOX))
        # the last row and column of a part stand for fewer pixels than the others
        assert np.abs(found.astype(int) - expected).mean() < 4


def test_only_jpegs_are_decoded_at_a_part_and_none_of_another_size(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        Image.fromarray(smooth(48, 64)).save(tmp_path / name)
    assert read_image(tmp_path / "a.png", 64, 48, (10, 10)).shape == (48, 64, 3)
    with pytest.raises(DataError, match="64x48 pixels, expected 32x24"):
        read_image(tmp_path / "a.jpg", 32, 24, (10, 10))


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"P6\n64 48\n255\n", "a PNM image"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"\x00\x00\x01\x00\x01\x00", "an icon"),
        (bytes(128) + b"DICM", "a DICOM image"),
        (b"SIMPLE  =                    T", "a FITS image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"\x00\x00\x00\x20ftypisom", "a video"),
        (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    ],
)
def test_files_of_other_kinds_are_named_with_the_remedy(
    tmp_path: Path, head: bytes, what: str
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(head + bytes(200))
    with pytest.raises(DataError, match=rf"image\.png: {what}.*: convert it to JPEG or PNG"):
        image_size(path)
