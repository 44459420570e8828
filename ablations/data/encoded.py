"""Batches whose JPEGs the device decodes: data workers read files, nvJPEG decodes a batch at once.

What is known of torchvision's `decode_jpeg(..., device="cuda")`: it writes into memory that was
freed on the caller's stream without waiting for work queued there (pytorch/vision pull request
9606), so it is called on a stream of its own, once that has nothing left to do. It takes the colors
of subsampled JPEGs (4:2:0) from the nearest pixel, where Pillow interpolates them: edges of colors
differ by more than rounding. A fault of one file fails all, without a word of which. nvJPEG before
CUDA 11.6 leaks memory. Since torchvision 0.29 it is deprecated for TorchCodec's.

On a CPU the same code decodes with libjpeg: that is for tests, and a run is refused there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from detnet.detection.batch import Batch, Example, collate, padded

from .faults import DataError


class Jpeg(NamedTuple):
    """A file for the device to decode, which stands in an example's target as `jpeg`.

    data: (N,) uint8, the file
    source: names the file, and where it is listed, in errors
    """

    data: Tensor
    source: str
    is_flipped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBatch(Batch):
    """A batch whose images are decoded when it comes to a device; here they have no channel.

    data: (N,) uint8, one tensor for workers to share: of each image its JPEG, or its pixels
        (3, h, w) as they enter the batch
    num_bytes: of each image in `data`
    sources: names each JPEG in errors; None where the image is pixels
    is_flipped: whether a JPEG is mirrored once it is decoded
    """

    data: Tensor
    num_bytes: list[int]
    sources: list[str | None]
    is_flipped: list[bool]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device, its images decoded there.

        Raises DataError that names the first file that cannot be decoded.
        """
        rest = Batch(self.images, self.sizes, self.original_sizes, self.image_ids, self.targets)
        if device.type != "cuda":
            return replace(rest.to(device), images=_images(self, device))
        stream, caller = _stream(device), torch.cuda.current_stream(device)
        stream.synchronize()
        with torch.cuda.stream(stream):
            images = _images(self, device)
        caller.wait_stream(stream)
        images.record_stream(caller)
        return replace(rest.to(device), images=images)


def collate_encoded(examples: Sequence[Example]) -> EncodedBatch:
    """As `collate`, for images that are pixels or have a `jpeg` in their target."""
    batch = collate([(image[:0], target) for image, target in examples])
    jpegs: list[Jpeg | None] = [target.get("jpeg") for _, target in examples]
    parts = [
        image.reshape(-1) if jpeg is None else jpeg.data
        for (image, _), jpeg in zip(examples, jpegs, strict=True)
    ]
    return EncodedBatch(
        batch.images,
        batch.sizes,
        batch.original_sizes,
        batch.image_ids,
        batch.targets,
        data=torch.cat(parts),
        num_bytes=[len(part) for part in parts],
        sources=[jpeg and jpeg.source for jpeg in jpegs],
        is_flipped=[jpeg is not None and jpeg.is_flipped for jpeg in jpegs],
    )


def decode(files: list[Tensor], sources: list[str], device: torch.device) -> list[Tensor]:
    """RGB uint8 (3, h, w) on the device of each JPEG, (N,) uint8 on the host; one or more.

    Raises DataError that names the first one that cannot be decoded.
    """
    try:
        return decode_jpeg(files, ImageReadMode.RGB, device=device)
    except RuntimeError:
        for file, source in zip(files, sources, strict=True):
            try:
                decode_jpeg([file], ImageReadMode.RGB, device=device)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise DataError(
                    f"{source}: cannot be decoded ({reason}): fetch the file again, remove the "
                    "image, or give protocol.decode=pillow"
                ) from error
        raise


def _images(batch: EncodedBatch, device: torch.device) -> Tensor:
    """(B, 3, H, W) uint8 on the device: decoded, mirrored, resized and padded."""
    parts = batch.data.split(batch.num_bytes)
    jpegs = {k: source for k, source in enumerate(batch.sources) if source is not None}
    decoded: dict[int, Tensor] = {}
    if jpegs:
        found = decode([parts[k] for k in jpegs], list(jpegs.values()), device)
        decoded = dict(zip(jpegs, found, strict=True))
    images = []
    for k, size in enumerate(batch.sizes.tolist()):
        if k not in jpegs:
            images.append(parts[k].view(3, *size).to(device, non_blocking=True))
            continue
        image = decoded[k].flip(-1) if batch.is_flipped[k] else decoded[k]
        images.append(_resized(image, size))
    return padded(images, batch.images.shape[-2:])


def _resized(image: Tensor, size: list[int]) -> Tensor:
    # CUDA interpolates floats alone
    resized = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    return resized.round_().to(torch.uint8)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
