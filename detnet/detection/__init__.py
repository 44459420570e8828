"""FPN detectors on any backbone that names its stages, equal strides included."""

from detnet.detection.batch import Batch, Targets, collate, resize
from detnet.detection.detector import Detections, Detector, DetectorSpec
from detnet.detection.faster_rcnn import FasterRCNNSpec
from detnet.detection.features import FeatureExtractor
from detnet.detection.mask_rcnn import MaskRCNNSpec
from detnet.detection.pyramid import Pyramid
from detnet.detection.retinanet import RetinaNetSpec
from detnet.detection.rois import LevelRoIAlign

__all__ = [
    "DETECTORS",
    "Batch",
    "Detections",
    "Detector",
    "DetectorSpec",
    "FasterRCNNSpec",
    "FeatureExtractor",
    "LevelRoIAlign",
    "MaskRCNNSpec",
    "Pyramid",
    "RetinaNetSpec",
    "Targets",
    "collate",
    "resize",
]

DETECTORS: dict[str, type[DetectorSpec]] = {
    "faster_rcnn": FasterRCNNSpec,
    "mask_rcnn": MaskRCNNSpec,
    "retinanet": RetinaNetSpec,
}
