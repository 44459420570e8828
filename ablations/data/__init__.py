"""Data, checked when they are opened: COCO and VOC folders and glyphs, of objects or of classes.

A new format of folders is a file beside this one, whose config has `root`, `train`, `val`,
`negatives`, `check()`, `read()` and `images_folder()`, and a row of `DATA`. A new
kind of classification data is a file with a config and a `ClassDataset`, and a row of `CLASS_DATA`.
"""

from dataclasses import replace

from ablations.evaluation.faults import Faults

from .batches import Sides, train_batches, val_batches
from .classes import ClassBatch, ClassDataset, class_train_batches, class_val_batches, seeded
from .coco import SPLITS, Coco2017Data, CocoData
from .dataset import DetectionDataset, FolderDataset, Target
from .faults import DataError
from .glyph_classes import GlyphClassesData, GlyphClassesDataset
from .glyphs import GlyphsData, GlyphsDataset
from .image_folder import ImageFolderData, ImageFolderDataset
from .voc import VocData

DataConfig = CocoData | Coco2017Data | VocData | GlyphsData

DATA: dict[str, type] = {
    "coco": CocoData,
    "coco2017": Coco2017Data,
    "voc": VocData,
    "glyphs": GlyphsData,
}
"""Every `data=` of detection by its name."""
CLASS_DATA: dict[str, type] = {"image_folder": ImageFolderData, "glyph_classes": GlyphClassesData}
"""Every `data=` of classification by its name."""
WITHOUT_MASKS = (VocData,)

__all__ = [
    "CLASS_DATA",
    "DATA",
    "ClassBatch",
    "ClassDataset",
    "Coco2017Data",
    "CocoData",
    "DataConfig",
    "DataError",
    "DetectionDataset",
    "FolderDataset",
    "GlyphClassesData",
    "GlyphsData",
    "ImageFolderData",
    "Sides",
    "Target",
    "VocData",
    "check_same_task",
    "class_train_batches",
    "class_val_batches",
    "open_class_data",
    "open_data",
    "seeded",
    "train_batches",
    "val_batches",
]


def open_data(
    config: DataConfig, split: str, max_images: int | None = None, *, masks: bool | None = None
) -> DetectionDataset:
    """Open and check one split, 'train' or 'val', or `max_images` spread evenly over it.

    `masks` is what the detector needs, and counts where the config leaves it open. Raises
    ValueError for a wrong config and DataError for data that cannot be used.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: give one of {SPLITS}")
    config.check()
    config = _with_masks(config, masks)
    if isinstance(config, GlyphsData):
        return GlyphsDataset(config, split, max_images)
    instances = config.read(split, max_images)
    training = split == "train"
    if training and not config.negatives:
        instances = instances.take(instances.annotations.columns().num_objects() > 0)
    instances.faults.log()
    source = f"{config.root}: {config.train if training else config.val}"
    return FolderDataset(instances, config.images_folder(split), source, training=training)


def open_class_data(
    config: ImageFolderData | GlyphClassesData,
    max_train_images: int | None = None,
    max_val_images: int | None = None,
) -> tuple[ClassDataset, ClassDataset]:
    """Both splits of classification data; raises ValueError and DataError as `open_data`."""
    config.check()
    if isinstance(config, GlyphClassesData):
        return (
            GlyphClassesDataset(config, "train", max_train_images),
            GlyphClassesDataset(config, "val", max_val_images),
        )
    train = ImageFolderDataset(config, "train", max_train_images)
    return train, ImageFolderDataset(config, "val", max_val_images, train.classes)


def check_same_task(train: DetectionDataset, val: DetectionDataset) -> None:
    """DataError unless both splits have the same categories, and masks both or neither.

    Images that both hold are told among the checks of val.
    """
    if train.categories != val.categories:
        different = [c for c in train.categories if c not in val.categories]
        different += [c for c in val.categories if c not in train.categories]
        raise DataError(
            f"train and val do not list the same categories, first {different[:3]}: "
            "write the same 'categories' into both annotation files"
        )
    if train.has_masks != val.has_masks:
        without = "val" if train.has_masks else "train"
        raise DataError(f"{without} has no masks: set data.masks=false, or draw its masks")
    if isinstance(train, FolderDataset) and isinstance(val, FolderDataset):
        _tell_shared_images(train, val)


def _tell_shared_images(train: FolderDataset, val: FolderDataset) -> None:
    """Note images that are in both splits among the checks of val, once."""
    rule = "image_in_both_splits"
    if any(fault["rule"] == rule for fault in val.checks["faults"]):
        return
    ours, theirs = train.ids_by_file(), val.ids_by_file()
    shared = sorted(ours.keys() & theirs.keys(), key=lambda file: theirs[file])
    faults = Faults()
    faults.note_rows(
        rule,
        range(len(shared)),
        lambda k: (
            f"val: image {theirs[shared[k]]}: its file is train's image {ours[shared[k]]}, too"
        ),
    )
    faults.log()
    val.checks["faults"] += faults.summary()


def _with_masks(config: DataConfig, masks: bool | None) -> DataConfig:
    if masks is None:
        return config
    if isinstance(config, WITHOUT_MASKS):
        if masks:
            name = next(name for name, each in DATA.items() if type(config) is each)
            raise ValueError(f"data={name} has no masks: choose a detector of boxes")
        return config
    if masks and config.masks is False:
        raise ValueError("data.masks=false, but the detector needs masks: leave data.masks open")
    return replace(config, masks=masks) if config.masks is None else config
