"""A classification data set: one class an image; and its batches, through timm's transforms.

As in detection, the training batch at a step depends on the data, the seed and the step alone.
Images stay uint8 until they are on the device.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from .batches import TrainSampler, loaded, part_of

Transform = Callable[[Image.Image], Tensor]
"""PIL image -> uint8 (3, S, S), as `timm.data.create_transform` makes them without normalizing."""


class ClassDataset(ABC):
    """Images of one class each.

    classes: names, whose places are the labels from 0
    fingerprint: hex digest of everything that matters to training and scores, but not of where the
        files lie
    checks: counts, as plain JSON values
    """

    classes: list[str]
    fingerprint: str
    checks: dict[str, Any]

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """The image in RGB."""

    @abstractmethod
    def label(self, index: int) -> int:
        """The place of its class in `classes`."""


class ClassBatch(NamedTuple):
    """Images with their labels; ids count from 1 in the data set's order."""

    images: Tensor
    """uint8 (B, 3, S, S)"""
    labels: Tensor
    """int64 (B,)"""
    image_ids: list[int]


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Let torch, numpy and `random`, all of which timm draws from, depend on `numbers` alone."""
    word = np.random.SeedSequence(numbers).generate_state(1)[0]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        random.seed(int(word))
        np.random.seed(word)  # noqa: NPY002
        torch.manual_seed(int(word))
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


class _Transformed(Dataset[tuple[Tensor, int, int]]):
    """(image, label, id) by (epoch, index), transformed by chance that depends on those alone."""

    def __init__(self, dataset: ClassDataset, transform: Transform, seed: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, int]:
        epoch, index = key
        with seeded(self.seed, epoch, index):
            image = self.transform(self.dataset.image(index))
        return image, self.dataset.label(index), index + 1


def class_train_batches(
    dataset: ClassDataset,
    transform: Transform,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    num_workers: int = 0,
    pin_memory: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[ClassBatch]:
    """Endless batches from `start_step` on; `batch_size` is that of this process."""
    is_tall = np.zeros(len(dataset), dtype=bool)  # all become squares
    sampler = TrainSampler(is_tall, batch_size, seed, start_step, rank, world_size)
    images = _Transformed(dataset, transform, seed)
    return loaded(images, sampler, _collate, num_workers, pin_memory)


def class_val_batches(
    dataset: ClassDataset,
    transform: Transform,
    batch_size: int,
    *,
    num_workers: int = 0,
    pin_memory: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[ClassBatch]:
    """Every image once, in order; each process takes a part of it."""
    keys = [(0, index) for index in part_of(len(dataset), rank, world_size)]
    batches = [keys[first : first + batch_size] for first in range(0, len(keys), batch_size)]
    return loaded(_Transformed(dataset, transform, 0), batches, _collate, num_workers, pin_memory)


def _collate(examples: list[tuple[Tensor, int, int]]) -> ClassBatch:
    images, labels, image_ids = zip(*examples, strict=True)
    return ClassBatch(torch.stack(images), torch.tensor(labels), list(image_ids))
