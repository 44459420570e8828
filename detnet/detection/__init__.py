"""FPN detectors on any backbone that names its stages, equal strides included."""

from detnet.detection.detectors import DetectorSpec, build_detector
from detnet.detection.features import FeatureExtractor
from detnet.detection.pyramid import Pyramid
from detnet.detection.rois import LevelRoIAlign

__all__ = ["DetectorSpec", "FeatureExtractor", "LevelRoIAlign", "Pyramid", "build_detector"]
