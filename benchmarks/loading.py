"""How many images a second the loader gives, beside what a training step takes.

    python benchmarks/loading.py                                    # photographs of COCO's size
    python benchmarks/loading.py coco root=DIR train=a.json val=b.json --short 800 --long 1333
    python benchmarks/loading.py --detector mask_rcnn --workers 1 2 4 8 --device cuda
    python benchmarks/loading.py --decode pillow cuda --device cuda --workers 1 2 4 8

Without a data set it writes JPEG photographs with seven outlines each to a temporary folder. Each
number of workers is told with the images a second from the file to the batch on the device, once
the batches prepared ahead are used up; how many times more that is than the step alone takes, on
the same machine; the memory of the batches that wait at most, and of the workers themselves.

The last command compares `protocol.decode=cuda` with Pillow's workers. It was not run on a GPU yet;
with `--device cpu` libjpeg stands in for nvJPEG, which tries the command and measures nothing.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from training_models import build_ours

from ablations.config import DECODERS
from ablations.data import DetectionDataset, Sides, open_data, train_batches
from ablations.data.__main__ import parse_config
from ablations.data.coco import CocoData
from ablations.data.encoded import EncodedBatch
from detnet.detection import Batch

PREFETCHED = 2
"""Batches that torch's DataLoader lets each worker prepare."""
NUM_CORNERS = 24
NUM_STEPS = 4


def write_photographs(folder: Path, num: int, height: int = 480, width: int = 640) -> CocoData:
    """JPEGs of COCO's size with seven objects each, outlined by polygons."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    annotations, images = [], []
    angles = np.linspace(0, 2 * np.pi, NUM_CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) / 2 + 0.5
    for k in range(num):
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 6, (height, width, 3))
        pixels = np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{k}.jpg", quality=90)
        images.append({"id": k, "file_name": f"{k}.jpg"})
        for _ in range(7):
            first = rng.uniform(0, (width / 2, height / 2))
            size = rng.uniform(20, (width / 2, height / 2))
            outline = (first + size * circle).round(2).ravel().tolist()
            box = [*first.tolist(), *size.tolist()]
            annotations.append(
                {"image_id": k, "category_id": 1, "bbox": box, "segmentation": [outline]}
            )
    content = {
        "images": images,
        "annotations": [{"id": k, **a} for k, a in enumerate(annotations, start=1)],
        "categories": [{"id": 1, "name": "object"}],
    }
    (folder / "train.json").write_text(json.dumps(content))
    return CocoData(root=str(folder), train="train.json", val="train.json")


def num_bytes(batch: Batch) -> int:
    """Of a batch's images, or their files, and masks."""
    masks = None if batch.targets is None else batch.targets.masks
    images = batch.data if isinstance(batch, EncodedBatch) else batch.images
    return images.nbytes + (0 if masks is None else masks.nbytes)


def speed(
    batches: Iterator[Batch], num_before: int, seconds: float, device: torch.device
) -> tuple[float, float, int]:
    """(images a second, CPU seconds of this process an image, bytes of the largest batch).

    The first `num_before` batches, which were prepared ahead, are not counted.
    """
    size = 0
    for batch in islice(batches, num_before):
        size = max(size, num_bytes(batch))
        batch.to(device)
    wait_for(device)
    num_images, elapsed = 0, 0.0
    begun, started = time.perf_counter(), time.process_time()
    while elapsed < seconds:
        batch = next(batches)
        num_images += len(batch)
        size = max(size, num_bytes(batch))
        batch.to(device)
        wait_for(device)
        elapsed = time.perf_counter() - begun
    return num_images / elapsed, (time.process_time() - started) / num_images, size


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def own_bytes_of_workers() -> int | None:
    """Memory that data workers share with no other process; None where the system does not tell."""
    total = 0
    for worker in multiprocessing.active_children():
        try:
            lines = Path(f"/proc/{worker.pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            return None
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
    return total


def step_speed(args: argparse.Namespace, batch: Batch, num_classes: int) -> float:
    """Images a second of training steps on one batch, without loading any."""
    device = torch.device(args.device)
    model = build_ours(args, num_classes).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for step in range(1 + NUM_STEPS):
        if step == 1:  # the first one sets things up
            begun = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bfloat16"):
            losses = model(batch.to(device))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        wait_for(device)
    return NUM_STEPS * len(batch) / (time.perf_counter() - begun)


def megabytes(num: int | None) -> str:
    return "-" if num is None else f"{num / 1e6:.0f}"


def print_table(args: argparse.Namespace, dataset: DetectionDataset) -> None:
    """A line for each decoder and number of workers."""
    device = torch.device(args.device)
    sides = Sides(args.short, args.long)
    first = next(train_batches(dataset, args.batch_size, seed=0, sides=sides))
    needed = step_speed(args, first, len(dataset.categories))
    print(
        f"{len(dataset)} images, short side {' or '.join(map(str, args.short))}, long side "
        f"{args.long} at most, {args.batch_size} a batch, "
        f"{'with' if dataset.has_masks else 'without'} masks\n"
        f"a step of {args.backbone} {args.detector} in {args.precision} on {args.device} takes "
        f"{needed:.1f} images/s, {torch.get_num_threads()} threads\n"
    )
    print(
        "workers  images/s  of the step's  CPU ms an image  MB waiting  MB of workers  decoded by"
    )
    for decoder, num_workers in product(args.decode, args.workers):
        batches = train_batches(
            dataset, args.batch_size, seed=0, num_workers=num_workers, sides=sides,
            encoded=decoder == "cuda", pin_memory=device.type == "cuda",
        )  # fmt: skip
        num_ahead = PREFETCHED * num_workers
        rate, cpu_seconds, size = speed(batches, num_ahead + 1, args.seconds, device)
        cpu = "-" if num_workers else f"{1000 * cpu_seconds:.1f}"
        own = own_bytes_of_workers()
        waiting = max(1, num_ahead) * size
        print(
            f"{num_workers:7}  {rate:8.1f}  {rate / needed:12.1f}x  {cpu:>15}  "
            f"{megabytes(waiting):>10}  {megabytes(own):>13}  {decoder:>10}",
            flush=True,
        )
        del batches  # ends its workers


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("data", nargs="*", help="as of `python -m ablations.data check`")
    parser.add_argument("--short", type=int, nargs="+", default=[256])
    parser.add_argument("--long", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=list(range(9)))
    parser.add_argument("--seconds", type=float, default=6, help="of each number of workers")
    parser.add_argument("--num-images", type=int, default=64, help="photographs to write")
    parser.add_argument("--detector", choices=["faster_rcnn", "mask_rcnn"], default="faster_rcnn")
    parser.add_argument("--backbone", default="detnet17")
    parser.add_argument("--full", action="store_true", help="the detector's default numbers")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--decode", nargs="+", choices=DECODERS, default=["pillow"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = (
            parse_config(args.data[0], args.data[1:])
            if args.data
            else write_photographs(Path(folder), args.num_images)
        )
        print_table(args, open_data(config, "train", masks=args.detector == "mask_rcnn"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
