"""JPEGs that the device decodes: libjpeg stands in for nvJPEG where there is no GPU."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, read_file

from ablations.config import JobConfig, ProtocolConfig, RunConfig
from ablations.data import CocoData, DataError, GlyphsData, Sides, train_batches, val_batches
from ablations.data import encoded as encoded_module
from ablations.data import open_data as open_split
from ablations.data.batches import is_flipped
from ablations.data.dataset import DetectionDataset
from ablations.data.encoded import EncodedBatch
from ablations.data.images import read_plain_jpeg
from ablations.run import execute
from ablations.runtime import DeviceError, Runtime
from ablations.tasks.detection import DetectionTask
from ablations.training import loop
from detnet.detection import Batch, FasterRCNNSpec, MaskRCNNSpec
from detnet.zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
CPU = torch.device("cpu")
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
SIDES = Sides([48, 64], 100)
SEED = 5


def photograph(height: int, width: int, seed: int) -> Image.Image:
    """Colors that change softly, with grain."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = random.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))


def folder(root: Path, names: list[str]) -> CocoData:
    """Annotations of image files in a folder, masks as polygons, a crowd in each."""
    images = [{"id": k, "file_name": name} for k, name in enumerate(names, start=1)]
    boxes = [(3, 5, 30, 20, 0), (20, 12, 15, 33, 0), (40, 2, 9, 50, 1)]
    annotations = [
        {
            "id": len(boxes) * image["id"] + k, "image_id": image["id"], "category_id": 1,
            "bbox": [x, y, w, h], "area": w * h, "iscrowd": crowd,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for image in images
        for k, (x, y, w, h, crowd) in enumerate(boxes)
    ]  # fmt: skip
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}],
    }
    (root / "a.json").write_text(json.dumps(content))
    return CocoData(root=str(root), train="a.json", val="a.json", images=".")


def opened(root: Path, names: list[str], *, masks: bool = True) -> DetectionDataset:
    return open_split(folder(root, names), "train", masks=masks)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    """Upright and wide JPEGs in several samplings, larger and smaller than they are trained."""
    root = tmp_path_factory.mktemp("photographs")
    sizes = [(61, 77), (90, 60), (64, 96), (85, 72), (48, 64)]
    for k, size in enumerate(sizes):
        photograph(*size, seed=k).save(root / f"{k}.jpg", quality=90, subsampling=k % 3)
    photograph(70, 80, seed=9).convert("L").save(root / "grey.jpg")
    return opened(root, [*(f"{k}.jpg" for k in range(len(sizes))), "grey.jpg"])


def same_but_pixels(one: Batch, other: Batch) -> bool:
    assert one.targets is not None
    assert other.targets is not None
    targets = zip(fields(one.targets), fields(other.targets), strict=True)
    return (
        one.images.shape == other.images.shape
        and torch.equal(one.sizes, other.sizes)
        and (one.original_sizes, one.image_ids) == (other.original_sizes, other.image_ids)
        and all(
            torch.equal(getattr(one.targets, a.name), getattr(other.targets, b.name))
            for a, b in targets
        )
    )


def test_batches_are_pillows_within_the_rounding_of_bytes(photographs: DetectionDataset) -> None:
    """The same decoder but for its version: 1. Pillow's way rounds between rows and columns: 1."""
    pairs = zip(
        train_batches(photographs, 2, SEED, sides=SIDES),
        train_batches(photographs, 2, SEED, sides=SIDES, encoded=True),
        strict=False,
    )
    for pillows, waiting in islice(pairs, 12):
        assert isinstance(waiting, EncodedBatch)
        assert None not in waiting.sources
        ours = waiting.to(CPU)
        assert type(ours) is Batch
        assert same_but_pixels(ours, pillows)
        assert ours.images.dtype == torch.uint8
        assert ours.images.is_contiguous(memory_format=torch.channels_last)
        assert (ours.images.int() - pillows.images.int()).abs().max() <= 2


@pytest.mark.parametrize("device", DEVICES)
def test_images_are_the_files_decoded_mirrored_resized_and_padded(
    photographs: DetectionDataset, device: str
) -> None:
    """On a GPU colors differ at edges, so the mean tells an image from its mirror image there."""
    root = Path(photographs.folder.path)  # type: ignore[attr-defined]
    names = sorted(path.name for path in root.glob("*.jpg"))
    num, turned = len(names), set()
    for step, waiting in enumerate(
        islice(train_batches(photographs, num, SEED, sides=SIDES, encoded=True), 3)
    ):
        batch = waiting.to(torch.device(device))
        for image, size, image_id in zip(
            batch.images.cpu(), waiting.sizes.tolist(), batch.image_ids, strict=True
        ):
            expected = decode_jpeg(read_file(root / names[image_id - 1]), ImageReadMode.RGB)
            turned.add(is_flipped(SEED, step, image_id - 1))
            if is_flipped(SEED, step, image_id - 1):
                expected = torch.from_numpy(expected.numpy()[:, :, ::-1].copy())
            exact = F.interpolate(expected[None].float(), size, mode="bilinear", antialias=True)
            difference = (image[:, : size[0], : size[1]] - exact[0]).abs()
            assert difference.max() <= 0.5 + 1e-3 if device == "cpu" else difference.mean() < 8
            assert image[:, size[0] :].sum() == image[:, :, size[1] :].sum() == 0
    assert turned == {True, False}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_depends_on_its_step_alone(
    photographs: DetectionDataset, num_workers: int, device: str
) -> None:
    def batches(start: int, num: int) -> list[Batch]:
        iterator = train_batches(
            photographs, 2, SEED, start, num_workers, sides=SIDES, encoded=True
        )
        return [batch.to(torch.device(device)) for batch in islice(iterator, num)]

    for one, other in zip(batches(0, 6)[4:], batches(4, 2), strict=True):
        assert same_but_pixels(one, other)
        assert torch.equal(one.images, other.images)


def test_validation_sees_every_image_in_order_at_the_last_side(
    photographs: DetectionDataset,
) -> None:
    for pillows, waiting in zip(
        val_batches(photographs, 4, sides=SIDES),
        val_batches(photographs, 4, sides=SIDES, encoded=True),
        strict=True,
    ):
        ours = waiting.to(CPU)
        assert same_but_pixels(ours, pillows)
        assert (ours.images.int() - pillows.images.int()).abs().max() <= 2


def save_turned(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def save_changed(old: bytes, new: bytes) -> Callable[[Image.Image, Path], None]:
    def save(image: Image.Image, path: Path) -> None:
        image.save(path)
        content = path.read_bytes()
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))

    return save


def save_uneven(image: Image.Image, path: Path) -> None:
    """The second component is sampled twice as often as the first and the third."""
    image.save(path, subsampling=0)
    content = path.read_bytes()
    second = content.index(b"\xff\xc0") + 13
    path.write_bytes(content[: second + 1] + b"\x21" + content[second + 2 :])


LEFT_TO_PILLOW: dict[str, Callable[[Image.Image, Path], None]] = {
    "a.png": Image.Image.save,
    "progressive.jpg": lambda image, path: image.save(path, progressive=True),
    "turned.jpg": save_turned,
    "cmyk.jpg": lambda image, path: image.convert("CMYK").save(path),
    "rgb.jpg": lambda image, path: image.save(path, keep_rgb=True),
    # behind the end, as cameras have previews there
    "appended.jpg": save_changed(b"\xff\xd9", b"\xff\xd9and more"),
}


@pytest.mark.parametrize("name", LEFT_TO_PILLOW)
def test_what_nvjpeg_does_not_take_whole_is_decoded_by_pillow(tmp_path: Path, name: str) -> None:
    LEFT_TO_PILLOW[name](photograph(72, 80, seed=1), tmp_path / name)
    photograph(72, 80, seed=2).save(tmp_path / "plain.jpg")
    dataset = opened(tmp_path, [name, "plain.jpg"])
    sources = set()
    for pillows, waiting in zip(
        islice(train_batches(dataset, 2, SEED, sides=SIDES), 4),
        train_batches(dataset, 2, SEED, sides=SIDES, encoded=True),
        strict=False,
    ):
        assert isinstance(waiting, EncodedBatch)
        ours = waiting.to(CPU)
        assert same_but_pixels(ours, pillows)
        for k, image_id in enumerate(ours.image_ids):
            if image_id == 1:
                assert waiting.sources[k] is None
                assert torch.equal(ours.images[k], pillows.images[k])
            else:
                sources.add(waiting.sources[k])
    assert len(sources) == 1


@pytest.mark.parametrize(
    "save",
    [
        save_uneven,
        save_changed(b"\xff\xc0\x00\x11\x08", b"\xff\xc9\x00\x11\x08"),  # arithmetic coding
        save_changed(b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c"),  # 12 bits
        save_changed(b"\xff\xd9", b""),  # cut off
    ],
)
def test_a_jpeg_of_another_frame_or_without_an_end_is_left_to_pillow(
    tmp_path: Path, save: Callable[[Image.Image, Path], None]
) -> None:
    image, path = photograph(72, 80, seed=1), tmp_path / "a.jpg"
    image.save(path)
    data = read_plain_jpeg(path, 80, 72)
    assert data is not None
    assert data.tobytes() == path.read_bytes()
    assert read_plain_jpeg(path, 72, 80) is None
    save(image, path)
    assert read_plain_jpeg(path, 80, 72) is None


def test_drawn_data_go_as_pixels() -> None:
    glyphs = open_split(GlyphsData(num_train=4, num_val=2, image_size=64, max_objects=4), "train")
    pillows = next(train_batches(glyphs, 2, SEED, sides=SIDES))
    ours = next(train_batches(glyphs, 2, SEED, sides=SIDES, encoded=True)).to(CPU)
    assert same_but_pixels(ours, pillows)
    assert torch.equal(ours.images, pillows.images)


@pytest.mark.parametrize("device", DEVICES)
def test_a_damaged_jpeg_is_named(tmp_path: Path, device: str) -> None:
    names = ["whole.jpg", "damaged.jpg", "last.jpg"]
    for name in names:
        photograph(72, 80, seed=1).save(tmp_path / name)
    damaged = tmp_path / "damaged.jpg"
    content = bytearray(damaged.read_bytes())
    table = content.index(b"\xff\xc4") + 5
    content[table : table + 16] = bytes([255] * 16)  # more codes than there are
    dataset = opened(tmp_path, names)
    damaged.write_bytes(content)
    waiting = next(iter(val_batches(dataset, 3, sides=SIDES, encoded=True)))
    with pytest.raises(DataError, match=r"a\.json: image 2: .*damaged\.jpg: cannot be decoded \("):
        waiting.to(torch.device(device))
    with pytest.raises(DataError, match=r"a\.json: image 2: .*damaged\.jpg: cannot be decoded \("):
        next(iter(val_batches(dataset, 3, sides=SIDES)))


def test_a_fault_that_no_file_has_is_told_as_it_is(
    photographs: DetectionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def together_too_many(files: list[Tensor], mode: ImageReadMode, device: object) -> list[Tensor]:
        if len(files) > 1:
            raise RuntimeError("out of memory")
        return decode_jpeg(files, mode)

    monkeypatch.setattr(encoded_module, "decode_jpeg", together_too_many)
    waiting = next(train_batches(photographs, 2, SEED, sides=SIDES, encoded=True))
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        waiting.to(CPU)


def config(root: Path, names: list[str], *, masks: bool = False) -> RunConfig:
    detector = MaskRCNNSpec if masks else FasterRCNNSpec
    return RunConfig(
        backbone=ZOO["detnet_atto"],
        detector=detector(channels=16, box_head_channels=16, num_sampled_rois=8),
        data=folder(root, names),
        protocol=ProtocolConfig(
            name="test", short_side=[48], long_side=96, batch_size=2, num_steps=4, decode="cuda",
            warmup_steps=1, learning_rate=1e-3,
        ),
        job=JobConfig(runs=str(root / "runs"), device="cpu", num_workers=0),
    )  # fmt: skip


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_a_run_cut_off_and_resumed_ends_as_a_whole_one(
    tmp_path: Path, masks: bool, device: str
) -> None:
    names = [f"{k}.jpg" for k in range(4)]
    for k, name in enumerate(names):
        photograph(72, 80, seed=k).save(tmp_path / name)
    run = config(tmp_path, names, masks=masks)
    task = DetectionTask.open(run)
    runtime = Runtime(torch.device(device))

    def trained(name: str, *num_steps: int) -> torch.nn.Module:
        (tmp_path / name).mkdir()
        for num in num_steps:
            torch.manual_seed(0)
            model = task.build_model().to(runtime.device)
            protocol = replace(run.protocol, num_steps=num)
            loop.fit(task, model, protocol, tmp_path / name, seed=SEED, runtime=runtime)
        return model

    whole = trained("whole", 4)
    states = zip(
        whole.state_dict().values(), trained("cut", 2, 4).state_dict().values(), strict=True
    )
    if device == "cpu":  # a GPU adds in no certain order
        assert all(torch.equal(one, other) for one, other in states)
    whole.score_threshold = 0.0
    found, _ = loop.predict(task, whole, run.protocol, num_images=4, runtime=runtime)
    assert {each["image_id"] for each in found} <= {1, 2, 3, 4}


def test_a_run_without_a_gpu_is_refused_before_it_starts(tmp_path: Path) -> None:
    photograph(72, 80, seed=1).save(tmp_path / "a.jpg")
    run = config(tmp_path, ["a.jpg"])
    outcome = execute(run, "v")
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert "protocol.decode=cuda: " in outcome.error
    assert "job.device=cuda" in outcome.error
    assert not list(tmp_path.rglob("record.json"))
    task = DetectionTask.open(run)
    with pytest.raises(DeviceError, match=r"protocol\.decode=pillow"):
        task.check_device(CPU)
    task.check_device(torch.device("cuda"))
    replace(task, config=replace(run, protocol=ProtocolConfig(name="test"))).check_device(CPU)
