"""Images enter the fingerprint by content; hashes are remembered and never trusted too far."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from ablations import progress
from ablations.data import CocoData, DataError, GlyphsData, content, open_data
from ablations.data.content import read_contents

LONG_AGO = (1_500_000_000, 1_500_000_000)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    names: list[str] = []
    original = content._hash

    def recording(path: Path) -> str:
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(content, "_hash", recording)
    return names


def write_files(folder: Path, **contents: bytes) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = []
    for name, text in contents.items():
        path = folder / name
        path.write_bytes(text)
        os.utime(path, LONG_AGO)
        paths.append(path)
    return paths


def test_contents_are_sizes_and_blake2b_in_the_order_asked_for(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "images", a=b"first", b=b"", c=b"third")
    expected = [
        (len(text), hashlib.blake2b(text, digest_size=16).hexdigest())
        for text in (b"third", b"first", b"", b"first")
    ]
    asked = [paths[2], paths[0], paths[1], paths[0]]
    assert read_contents(tmp_path / "images", asked) == expected


def test_a_file_is_read_once_until_it_changes(
    tmp_path: Path, cache: Path, hashed: list[str]
) -> None:
    folder = tmp_path / "images"
    paths = write_files(folder, a=b"one", b=b"two")
    first = read_contents(folder, paths)
    assert read_contents(folder, paths) == first
    assert sorted(hashed) == ["a", "b"]
    write_files(folder, a=b"longer")
    assert read_contents(folder, paths)[0] != first[0]
    (folder / "b").write_bytes(b"ten")
    os.utime(folder / "b", ns=(0, 7))
    assert read_contents(folder, paths)[1] != first[1]
    assert sorted(hashed) == ["a", "a", "b", "b"]
    assert len(list(cache.rglob("*.json"))) == 1


def test_train_and_val_of_one_folder_are_remembered_side_by_side(
    tmp_path: Path, cache: Path, hashed: list[str]
) -> None:
    a, b = write_files(tmp_path / "images", a=b"one", b=b"two")
    for paths in ([a], [b], [a], [b]):
        read_contents(tmp_path / "images", paths)
    assert hashed == ["a", "b"]


def test_a_file_that_changed_just_now_is_not_remembered(
    tmp_path: Path, cache: Path, hashed: list[str]
) -> None:
    [path] = write_files(tmp_path / "images", a=b"one")
    now = time.time_ns()
    os.utime(path, ns=(now, now))
    before = read_contents(tmp_path / "images", [path])
    path.write_bytes(b"two")
    os.utime(path, ns=(now, now))  # within one tick of the clock, of the same size
    assert read_contents(tmp_path / "images", [path]) != before


@pytest.mark.parametrize(
    "spoilt", ["", "{", "[]", "{}", "7", '[["a", 1]]', '[[["a"], [1, 2, "x"]]]']
)
def test_a_spoilt_cache_is_no_error(
    tmp_path: Path, cache: Path, hashed: list[str], spoilt: str
) -> None:
    paths = write_files(tmp_path / "images", a=b"one")
    expected = read_contents(tmp_path / "images", paths)
    [file] = cache.rglob("*.json")
    file.write_text(spoilt)
    assert read_contents(tmp_path / "images", paths) == expected
    assert read_contents(tmp_path / "images", paths) == expected
    assert hashed == ["a", "a"]


def test_without_a_cache_files_are_hashed_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[str]
) -> None:
    paths = write_files(tmp_path / "images", a=b"one")
    (tmp_path / "file").write_text("no folder")
    expected = [(3, hashlib.blake2b(b"one", digest_size=16).hexdigest())]
    for place in ("", str(tmp_path / "file"), "/proc/no/such"):
        monkeypatch.setenv("DETNET_CACHE", place)
        assert read_contents(tmp_path / "images", paths) == expected
        assert read_contents(tmp_path / "images", paths) == expected
    assert hashed == ["a"] * 6


def test_the_users_cache_folder_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DETNET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr("sys.platform", "linux")
    read_contents(tmp_path / "images", write_files(tmp_path / "images", a=b"one"))
    [file] = (tmp_path / "user").rglob("*.json")
    assert file.relative_to(tmp_path / "user").parts[0] == "detnet-ablations"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        read_contents(tmp_path, [tmp_path / "absent"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder"):
        read_contents(tmp_path, [tmp_path / "folder"])


def test_long_hashing_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(progress, "SECONDS", 0)
    read_contents(tmp_path, write_files(tmp_path / "images", a=b"one", b=b"two"))
    assert caplog.messages[0].startswith("image files hashed 1/2")


def write_data(root: Path, color: tuple[int, int, int] = (9, 9, 9)) -> CocoData:
    """Two BMP images, whose sizes in bytes are those of the format whatever they show."""
    (root / "images").mkdir(parents=True)
    for number in (1, 2):
        Image.new("RGB", (64, 48), color).save(root / "images" / f"{number}.bmp")
    truth = {
        "images": [{"id": k, "file_name": f"{k}.bmp", "width": 64, "height": 48} for k in (1, 2)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 30, 40], "area": 1200}
        ],
        "categories": [{"id": 3, "name": "box"}],
    }
    (root / "a.json").write_text(json.dumps(truth))
    return CocoData(root=str(root), train="a.json", val="a.json")


def test_other_pixels_of_the_same_size_are_another_fingerprint(tmp_path: Path) -> None:
    one, same, other = (
        open_data(write_data(tmp_path / name, color), "val")
        for name, color in (("a", (9, 9, 9)), ("b", (9, 9, 9)), ("c", (9, 9, 8)))
    )
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint_by_size == other.fingerprint_by_size
    assert one.fingerprint != one.fingerprint_by_size


def test_fingerprint_by_size_is_the_one_in_records_of_schema_1(tmp_path: Path) -> None:
    # Printed for this data by version 0.1.0, whose records have schema 1
    assert open_data(write_data(tmp_path), "val").fingerprint_by_size == "0f65d996fc0a468b"


def test_drawn_images_have_one_fingerprint() -> None:
    dataset = open_data(GlyphsData(num_train=2, num_val=2), "val")
    assert dataset.fingerprint == dataset.fingerprint_by_size
