"""Command line for data sets: check one, look at it, write the glyphs out, time the loader."""

import argparse
import logging
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image, ImageDraw

from ablations.progress import tracked

from . import (
    DATA,
    DataConfig,
    DataError,
    DetectionDataset,
    FolderDataset,
    GlyphsData,
    check_same_task,
    open_data,
    train_batches,
)
from .annotations import Columns, count_objects
from .coco import SPLITS
from .glyphs import export_coco

EXAMPLES = """examples:
  python -m ablations.data check coco root=data/cells train=annotations/train.json \\
      val=annotations/val.json
  python -m ablations.data check coco2017 root=data/coco --decode
  python -m ablations.data sheet glyphs image_size=256 --out sheet.png
  python -m ablations.data export num_train=500 num_val=100 seed=1 --out data/glyphs
  python -m ablations.data speed glyphs --num-workers 2

Fields are those of `data=...` in the training command, with or without `data.` before them.
"""


def parse_config(name: str, overrides: list[str]) -> DataConfig:
    """The config class `name` with `field=value` overrides, typed as in a run."""
    words = [override.removeprefix("data.") for override in overrides]
    merged = OmegaConf.merge(OmegaConf.structured(DATA[name]), OmegaConf.from_dotlist(words))
    return cast(DataConfig, OmegaConf.to_object(merged))


def check(config: DataConfig, max_images: int | None, decode: bool = False) -> bool:
    """Print what both splits hold, and what was dropped or mended; True when all is sound.

    With `decode`, every image is decoded, and those that cannot be are printed.
    """
    datasets = {}
    is_sound = True
    for split in SPLITS:
        started = time.monotonic()
        dataset = datasets[split] = open_data(config, split, max_images)
        counts = _counts(dataset)
        print(f"{split}: opened and counted in {time.monotonic() - started:.1f} s")
        print(
            f"  {counts['num_images']} images ({counts['num_negatives']} without objects), "
            f"{counts['num_objects']} objects, {counts['num_ignored']} ignored regions, "
            f"{'with' if dataset.has_masks else 'without'} masks"
        )
        for title in ("num_objects_by_size", "num_objects_by_category"):
            print("  " + ", ".join(f"{key} {num}" for key, num in counts[title].items()))
        print_faults(dataset.checks["faults"])
        print(f"  fingerprint {dataset.fingerprint[:16]}")
        if decode:
            spoilt = decoding_faults(dataset)
            print(f"  {len(dataset) - len(spoilt)} of {len(dataset)} images decoded")
            for fault in spoilt:
                print(f"    {fault}")
            is_sound = is_sound and not spoilt
    num_told = len(datasets["val"].checks["faults"])
    check_same_task(datasets["train"], datasets["val"])
    print_faults(datasets["val"].checks["faults"][num_told:])
    return is_sound


def _counts(dataset: DetectionDataset) -> dict[str, Any]:
    """Those that opening made or, of glyphs, those of all that is drawn."""
    if isinstance(dataset, FolderDataset):
        return dataset.checks
    groups = [dataset.annotations(index)[1] for index in range(len(dataset))]
    drawn = list(chain.from_iterable(groups))
    columns = Columns(
        len(groups),
        np.repeat(np.arange(len(groups)), [len(group) for group in groups]),
        np.array([a["category_id"] for a in drawn]),
        np.array([a["area"] for a in drawn]),
        np.zeros(len(drawn), dtype=bool),
    )
    return count_objects(columns, dataset.categories)


def decoding_faults(dataset: DetectionDataset) -> list[str]:
    """Decode every image, in threads; what is wrong with each that cannot be decoded."""

    def fault(index: int) -> str | None:
        try:
            dataset.image(index)
        except DataError as error:
            return str(error)
        return None

    num = len(dataset)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(filter(None, tracked(pool.map(fault, range(num)), num, "images decoded")))


def print_faults(faults: list[dict[str, Any]]) -> None:
    """What was dropped or mended, with the first cases by name."""
    for fault in faults:
        print(f"  {fault['rule']} x {fault['count']}: {fault['action']} ({fault['remedy']})")
        for example in fault["examples"]:
            print(f"    {example}")


def sheet(dataset: DetectionDataset, num_images: int, columns: int = 6) -> Image.Image:
    """The first images with their boxes and names, side by side."""
    side = 256
    num = min(num_images, len(dataset))
    page = Image.new("RGB", (columns * side, -(-num // columns) * side))
    names = {category["id"]: category["name"] for category in dataset.categories}
    for index in range(num):
        pixels, _, annotations = dataset.example(index)
        scale = side / max(pixels.shape)
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        tile = Image.fromarray(pixels).resize(size)
        pen = ImageDraw.Draw(tile)
        for annotation in annotations:
            x, y, width, height = np.array(annotation["bbox"]) * scale
            color = "red" if annotation["iscrowd"] else "yellow"
            pen.rectangle((x, y, x + width, y + height), outline=color)
            pen.text((x + 2, y), names[annotation["category_id"]], fill=color)
        page.paste(tile, (index % columns * side, index // columns * side))
    return page


def speed(dataset: DetectionDataset, batch_size: int, num_workers: int, num_batches: int) -> float:
    """Images per second of the training loader, after the first batch."""
    batches = train_batches(dataset, batch_size, seed=0, num_workers=num_workers)
    next(batches)
    started = time.monotonic()
    num_images = sum(map(len, islice(batches, num_batches)))
    return num_images / (time.monotonic() - started)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m ablations.data",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    for name, text in (
        ("check", "open both splits; print their counts and what was dropped"),
        ("sheet", "draw the first images with their boxes into one picture"),
        ("speed", "images per second of the training loader"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("data", choices=DATA, help="type of data set")
        command.add_argument("fields", nargs="*", metavar="field=value")
        command.add_argument("--max-images", type=int, help="only so many, evenly spaced")
        if name != "check":
            command.add_argument("--split", choices=SPLITS, default="train")
        if name == "check":
            command.add_argument(
                "--decode", action="store_true", help="decode every image; exit 1 if one is spoilt"
            )
        if name == "sheet":
            command.add_argument("--num-images", type=int, default=24)
            command.add_argument("--out", type=Path, required=True, help="picture to write")
        if name == "speed":
            command.add_argument("--batch-size", type=int, default=8)
            command.add_argument("--num-workers", type=int, default=2)
            command.add_argument("--num-batches", type=int, default=30)
    export = commands.add_parser("export", help="write the glyphs as a COCO folder")
    export.add_argument("fields", nargs="*", metavar="field=value")
    export.add_argument("--out", type=Path, required=True, help="new folder to write")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 1 when images cannot be decoded, 2 when the data or the fields are refused."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("ablations.evaluation.faults").addFilter(
        lambda record: record.levelno < logging.WARNING  # faults are part of what is printed
    )
    args = parser().parse_args(arguments)
    try:
        if args.command == "export":
            config = parse_config("glyphs", args.fields)
            export_coco(cast(GlyphsData, config), args.out)
            print(f"written to {args.out}")
            return 0
        config = parse_config(args.data, args.fields)
        if args.command == "check":
            return 0 if check(config, args.max_images, args.decode) else 1
        dataset = open_data(config, args.split, args.max_images)
        if args.command == "sheet":
            sheet(dataset, args.num_images).save(args.out)
            print(f"written to {args.out}")
        else:
            rate = speed(dataset, args.batch_size, args.num_workers, args.num_batches)
            print(f"{rate:.1f} images/s with {args.num_workers} workers")
    except (ValueError, OSError, OmegaConfBaseException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
