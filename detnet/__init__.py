"""DetNet backbones for timm: importing this package makes their names known to `timm`."""

from importlib.metadata import PackageNotFoundError, version

from detnet.backbone import DetNet
from detnet.spec import BackboneSpec, StageSpec
from detnet.zoo import ZOO, create_from_spec

__all__ = ["ZOO", "BackboneSpec", "DetNet", "StageSpec", "__version__", "create_from_spec"]

try:
    __version__ = version("detnet-ablations")
except PackageNotFoundError:  # a checkout in the path, not installed
    __version__ = "unknown"
