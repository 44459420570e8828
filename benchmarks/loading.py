"""How many images a second the loader gives: decoding, resizing and batching.

    python benchmarks/loading.py [data fields ...] [--short 256 --long 384] [--workers 0 1 2 4 8]

Without a data set it writes JPEG photographs of COCO's size to a temporary folder. Compare with the
images a second that `benchmarks/training.py` says the step takes. What loading holds in memory are
`2 x workers` batches that wait, told beside.
"""

import argparse
import json
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from ablations.data import DetectionDataset, Sides, open_data, train_batches
from ablations.data.__main__ import parse_config
from ablations.data.coco import CocoData
from detnet.detection import Batch

PREFETCHED = 2
"""Batches that torch's DataLoader lets each worker prepare."""


def write_photographs(folder: Path, num: int, height: int = 480, width: int = 640) -> CocoData:
    """JPEGs of COCO's size with seven objects each."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    annotations, images = [], []
    for k in range(num):
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 6, (height, width, 3))
        pixels = np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{k}.jpg", quality=90)
        images.append({"id": k, "file_name": f"{k}.jpg"})
        for _ in range(7):
            x, y = rng.uniform(0, width / 2), rng.uniform(0, height / 2)
            w, h = rng.uniform(20, width / 2), rng.uniform(20, height / 2)
            annotations.append({"image_id": k, "category_id": 1, "bbox": [x, y, w, h]})
    content = {
        "images": images,
        "annotations": [{"id": k, **a} for k, a in enumerate(annotations)],
        "categories": [{"id": 1, "name": "object"}],
    }
    (folder / "train.json").write_text(json.dumps(content))
    return CocoData(root=str(folder), train="train.json", val="train.json")


def num_bytes(batch: Batch) -> int:
    """Of a batch's images and masks."""
    masks = None if batch.targets is None else batch.targets.masks
    return batch.images.nbytes + (0 if masks is None else masks.nbytes)


def measure(
    dataset: DetectionDataset, sides: Sides, batch_size: int, num_workers: int, num_batches: int
) -> tuple[float, int]:
    """(images per second after the first batch, bytes of a batch)."""
    batches = train_batches(dataset, batch_size, seed=0, num_workers=num_workers, sides=sides)
    size = num_bytes(next(batches))
    begun = time.perf_counter()
    num_images = sum(map(len, islice(batches, num_batches)))
    return num_images / (time.perf_counter() - begun), size


def main() -> int:
    """Print a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", help="as of `python -m ablations.data check`")
    parser.add_argument("--short", type=int, nargs="+", default=[256])
    parser.add_argument("--long", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    parser.add_argument("--num-batches", type=int, default=24)
    parser.add_argument("--num-images", type=int, default=64, help="photographs to write")
    args = parser.parse_args()
    sides = Sides(args.short, args.long)
    with tempfile.TemporaryDirectory() as folder:
        config = (
            parse_config(args.data[0], args.data[1:])
            if args.data
            else write_photographs(Path(folder), args.num_images)
        )
        dataset = open_data(config, "train")
        print(f"short side {args.short}, long side {args.long}, {args.batch_size} images a batch")
        for num_workers in args.workers:
            speed, size = measure(dataset, sides, args.batch_size, num_workers, args.num_batches)
            waiting = max(1, PREFETCHED * num_workers) * size / 2**20
            print(
                f"{num_workers} workers  {speed:7.1f} images/s  {waiting:6.1f} MiB of batches",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
