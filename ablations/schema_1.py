"""Records of schema 1, read as records of today: nothing that was trained is lost.

Schema 1 wrote whole configs, one detector spec for all detectors, and digests of ten digits over
every field. What stands here is history: fields and defaults as they were, never to change.
"""

from collections.abc import Mapping
from typing import Any

from ablations.identity import digest

DIGEST_LENGTH = 10
RESULTS_VERSION = 1

_STAGE = {"stride": 1, "dilation": 1, "projection": True}
_BACKBONE = {
    "stem_width": 64,
    "stride_on": "1x1",
    "norm": "batch",
    "activation": "relu",
    "width_multiplier": 1.0,
    "output_stride": None,
    "drop_path_rate": 0.0,
}
_TIMM = {"output_stride": None, "out_indices": None, "norm": "batch"}
_DETECTOR = {
    "stages": None,
    "channels": 256,
    "extra_levels": "max_pool",
    "freeze": None,
    "anchor_size": 32,
    "anchor_ratios": [0.5, 1.0, 2.0],
    "num_anchor_scales": 1,
    "score_threshold": 0.05,
    "nms_threshold": 0.5,
    "num_detections": 100,
}
_RCNN = {
    **_DETECTOR,
    "pooled_levels": None,
    "num_proposals_before_nms_train": 2000,
    "num_proposals_before_nms_test": 1000,
    "num_proposals_train": 2000,
    "num_proposals_test": 1000,
    "num_sampled_anchors": 256,
    "num_sampled_rois": 512,
    "box_head_channels": 1024,
}
_DETECTORS = {
    "faster_rcnn": _RCNN,
    "mask_rcnn": {**_RCNN, "mask_head_channels": 256},
    # its two defaults of today stood in conf/detector/retinanet.yaml
    "retinanet": {
        **_DETECTOR,
        "extra_levels": "convolution",
        "num_anchor_scales": 3,
        "num_proposals_test": 1000,
    },
}
_FIELDS_OF_TODAY = {"retinanet": {"num_proposals_test": "num_candidates_per_level"}}
_PROTOCOL = {
    "short_side": [800],
    "long_side": 1333,
    "flip": True,
    "batch_size": 16,
    "num_steps": 180_000,
    "learning_rate": 0.02,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "warmup_steps": 500,
    "warmup_factor": 0.3,
    "milestones": [],
    "gamma": 0.1,
    "clip_norm": None,
    "precision": "float32",
}
_KNOWN_WEIGHTS = ("scratch", "pretrained")


def record_of_today(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a schema 1 record in today's fields, named by today's digest.

    The digest stays where it cannot be known: for runs from a weights file, and for records that
    hold only a part of their config.
    """
    config = content.get("config")
    record = {**content, "schema": 2, "results_version": RESULTS_VERSION}
    if not isinstance(config, dict) or not {"backbone", "detector", "protocol"} <= config.keys():
        return record
    record["config"] = _config_of_today(config)
    data = content.get("data") or {}
    if config.get("weights") in _KNOWN_WEIGHTS and "train_fingerprint" in data:
        fingerprints = {split: data[f"{split}_fingerprint"] for split in ("train", "val")}
        record["digest"] = digest(_identity(config, fingerprints))
    return record


def _config_of_today(config: Mapping[str, Any]) -> dict[str, Any]:
    backbone, detector = config["backbone"], config["detector"]
    today = {
        **config,
        "backbone": {"type": _backbone_type(backbone), **backbone},
        "detector": {"type": detector["kind"], **_detector_fields(detector)},
    }
    if "kind" in config.get("data", {}):
        data = dict(config["data"])
        today["data"] = {"type": data.pop("kind"), **data}
    return today


def _backbone_type(backbone: Mapping[str, Any]) -> str:
    return "spec" if "stages" in backbone else "timm"


def _detector_fields(detector: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that this detector used, under their names of today."""
    names = _FIELDS_OF_TODAY.get(detector["kind"], {})
    return {names.get(name, name): detector[name] for name in _DETECTORS[detector["kind"]]}


def _identity(config: Mapping[str, Any], fingerprints: Mapping[str, str]) -> dict[str, Any]:
    """What `config.run_digest` names, from a config of schema 1."""
    backbone, detector = config["backbone"], config["detector"]
    names = _FIELDS_OF_TODAY.get(detector["kind"], {})
    changed = _changed(detector, _DETECTORS[detector["kind"]])
    identity: dict[str, Any] = {
        "backbone": {"type": _backbone_type(backbone), **_backbone_changes(backbone)},
        "detector": {
            "type": detector["kind"],
            **{names.get(name, name): value for name, value in changed.items()},
        },
        "data": dict(fingerprints),
        "protocol": _changed(config["protocol"], _PROTOCOL),
    }
    if config["weights"] != "scratch":
        identity["weights"] = config["weights"]
    return identity


def _backbone_changes(backbone: Mapping[str, Any]) -> dict[str, Any]:
    if "stages" not in backbone:
        return {"name": backbone["name"], **_changed(backbone, _TIMM)}
    stages = {
        name: {"depth": stage["depth"], "width": stage["width"], **_changed(stage, _STAGE)}
        for name, stage in backbone["stages"].items()
    }
    return {"stages": stages, **_changed(backbone, _BACKBONE)}


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in defaults if values[name] != defaults[name]}
