"""DetNet backbones for timm: importing this package makes their names known to `timm`."""

from detnet.backbone import DetNet
from detnet.spec import BackboneSpec, StageSpec
from detnet.zoo import ZOO, create_from_spec

__all__ = ["ZOO", "BackboneSpec", "DetNet", "StageSpec", "create_from_spec"]
