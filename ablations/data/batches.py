"""Batches: an endless training stream that can start at any step, and a pass over a split.

The training batch at a step depends on the data, the seed and the step alone: not on the number
of workers, and not on what was read before. A run that was killed goes on with the batch it would
have had. A worker resizes its images and pads them to a `Batch`, whose images stay uint8.
"""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from detnet.detection.batch import Batch, collate, resize

from .dataset import DetectionDataset, Target
from .encoded import collate_encoded

FLIP_PROBABILITY = 0.5
T = TypeVar("T")


def flip_horizontally(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror an image (3, H, W), or its `jpeg`, with its boxes, ignored boxes and masks.

    Boxes are those of the `original_size`, where the target has one.
    """
    flipped = dict(target)
    width = target.get("original_size", image.shape[-2:])[1]
    for name in ("boxes", "ignored_boxes"):
        if name in target:
            flipped[name] = target[name].clone()
            flipped[name][:, [0, 2]] = width - target[name][:, [2, 0]]
    if "masks" in target:
        flipped["masks"] = target["masks"].flip(-1)
    if "jpeg" in target:
        flipped["jpeg"] = target["jpeg"]._replace(is_flipped=True)
    return image.flip(-1), flipped


def order_of_epoch(num_images: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits the images."""
    return np.random.default_rng((seed, epoch)).permutation(num_images)


def grouped(order: np.ndarray, is_tall: np.ndarray, num_before: int, batch_size: int) -> np.ndarray:
    """The order changed as little as lets batches hold upright images alone, or wide ones alone.

    A batch of both would be padded to a square. `num_before` images of the epoch before stand in
    the first batch. What is left at the end makes no whole batch of its kind.
    """
    num_first = -num_before % batch_size
    changed: list[int] = order[:num_first].tolist()
    waiting: dict[bool, list[int]] = {False: [], True: []}
    for index in order[num_first:].tolist():
        kind = waiting[bool(is_tall[index])]
        kind.append(index)
        if len(kind) == batch_size:
            changed += kind
            kind.clear()
    return np.array(changed + waiting[False] + waiting[True])


def is_flipped(seed: int, epoch: int, index: int) -> bool:
    """Whether image `index` is mirrored in an epoch."""
    word = np.random.SeedSequence((seed, epoch, index)).generate_state(1)[0]
    return bool(word < FLIP_PROBABILITY * 2**32)


@dataclass(frozen=True)
class Sides:
    """To what length images are resized: their short side, their long side at most.

    In training the short side is one of several by chance, else the last of them.
    """

    short: Sequence[int]
    long: int

    def of_training(self, seed: int, epoch: int, index: int) -> tuple[int, int]:
        """(short, long) of image `index` in an epoch."""
        word = np.random.SeedSequence((seed, epoch, index, len(self.short))).generate_state(1)[0]
        return self.short[int(word) % len(self.short)], self.long


class TrainSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of (epoch, index), from any step on.

    The epochs' orders are laid end to end, so that a batch may span two of them and none is cut.
    With several processes, each takes its own part of every global batch. `is_tall` (N,) says which
    images are upright: they share batches, as wide ones do.
    """

    def __init__(
        self,
        is_tall: np.ndarray,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.is_tall = is_tall
        self.num_images = len(is_tall)
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        orders: dict[int, np.ndarray] = {}
        step = self.start_step
        while True:
            first = (step * self.world_size + self.rank) * self.batch_size
            batch = []
            for position in range(first, first + self.batch_size):
                epoch, place = divmod(position, self.num_images)
                if epoch not in orders:
                    orders = {k: v for k, v in orders.items() if k == epoch - 1}
                    orders[epoch] = self._order(epoch)
                batch.append((epoch, int(orders[epoch][place])))
            yield batch
            step += 1

    def _order(self, epoch: int) -> np.ndarray:
        order = order_of_epoch(self.num_images, self.seed, epoch)
        batch_size = self.batch_size * self.world_size
        return grouped(order, self.is_tall, epoch * self.num_images, batch_size)


class _Training(Dataset[tuple[Tensor, Target]]):
    """The data set by (epoch, index), mirrored by chance and resized."""

    def __init__(
        self, dataset: DetectionDataset, seed: int, flip: bool, sides: Sides | None, encoded: bool
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self.flip = flip
        self.sides = sides
        self.encoded = encoded

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Target]:
        epoch, index = key
        sides = None if self.sides is None else self.sides.of_training(self.seed, epoch, index)
        if sides is None:
            example = self.dataset[index]
        else:
            example = self.dataset.sized(index, *sides, encoded=self.encoded)
        if self.flip and is_flipped(self.seed, epoch, index):
            example = flip_horizontally(*example)
        return example if sides is None else resize(example, *sides)


class _Validation(Dataset[tuple[Tensor, Target]]):
    """The data set, resized."""

    def __init__(self, dataset: DetectionDataset, sides: Sides | None, encoded: bool) -> None:
        self.dataset = dataset
        self.sides = sides
        self.encoded = encoded

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        if self.sides is None:
            return self.dataset[index]
        sides = self.sides.short[-1], self.sides.long
        return resize(self.dataset.sized(index, *sides, encoded=self.encoded), *sides)


def part_of(num_images: int, rank: int, world_size: int) -> range:
    """The images of one process: those of all, one after the other, are all images in order."""
    return range(num_images * rank // world_size, num_images * (rank + 1) // world_size)


def _check(batch_size: int, num_workers: int, start_step: int = 0) -> None:
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("num_workers", num_workers, 0),
        ("start_step", start_step, 0),
    ):
        if value < least:
            raise ValueError(f"{name}={value}: give at least {least}")


def leave_signals_to_parent(worker: int) -> None:
    """Undo in a data worker the signal handlers that a forked process inherits.

    Ctrl-C reaches every process of a terminal; the parent ends its workers itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def train_batches(
    dataset: DetectionDataset,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
    *,
    flip: bool = True,
    sides: Sides | None = None,
    encoded: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Endless batches from `start_step` on; `batch_size` is that of this process.

    `sides` None leaves images at their sizes; `encoded` leaves JPEGs to the device that the batch
    comes to, where images have sides to be resized to.
    """
    _check(batch_size, num_workers, start_step)
    is_tall = dataset.sizes[:, 0] > dataset.sizes[:, 1]
    sampler = TrainSampler(is_tall, batch_size, seed, start_step, rank, world_size)
    examples = _Training(dataset, seed, flip, sides, encoded)
    return loaded(examples, sampler, _collate(encoded), num_workers, pin_memory)


def val_batches(
    dataset: DetectionDataset,
    batch_size: int,
    num_workers: int = 0,
    pin_memory: bool = False,
    *,
    sides: Sides | None = None,
    encoded: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Every image once, in order; each process takes a part of it."""
    _check(batch_size, num_workers)
    indices = part_of(len(dataset), rank, world_size)
    batches = [
        list(indices[first : first + batch_size]) for first in range(0, len(indices), batch_size)
    ]
    examples = _Validation(dataset, sides, encoded)
    return loaded(examples, batches, _collate(encoded), num_workers, pin_memory)


def _collate(encoded: bool) -> Callable[[list[Any]], Batch]:
    return collate_encoded if encoded else collate


def loaded(
    dataset: Dataset[Any],
    batches: Iterable[list[Any]],
    collate: Callable[[list[Any]], T],
    num_workers: int,
    pin_memory: bool,
) -> Iterator[T]:
    """What `collate` makes of the examples of each batch of keys."""
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=collate,
        generator=torch.Generator(),  # or the loader would draw from the global one
        worker_init_fn=leave_signals_to_parent,
    )
    return iter(loader)
