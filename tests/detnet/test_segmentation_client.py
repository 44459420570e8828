"""segmentation_models_pytorch tells maps apart by their reduction: what works there, what does not.

Its encoders take timm's names ("tu-..."), and want strides 2, 4, 8, ..., each once.
"""

from typing import Any

import pytest
import timm
import torch

import detnet  # noqa: F401  (registers the zoo with timm)

smp: Any = pytest.importorskip("segmentation_models_pytorch")
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder  # noqa: E402
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder  # noqa: E402

IMAGE = torch.rand(2, 3, 64, 64)
WITH_LEVELS = ["Unet", "FPN", "DeepLabV3Plus", "UPerNet"]


def model_of(decoder: str, name: str) -> torch.nn.Module:
    build = getattr(smp, decoder)
    return build(encoder_name=f"tu-{name}", encoder_weights=None, classes=3).eval()


@pytest.mark.parametrize("decoder", [*WITH_LEVELS, "DPT"])
def test_a_network_whose_strides_double_serves_every_decoder(decoder: str) -> None:
    assert model_of(decoder, "detnet_resnet14b")(IMAGE).shape == (2, 3, 64, 64)


def test_dpt_takes_the_stride_plateau() -> None:
    assert model_of("DPT", "detnet_atto")(IMAGE).shape == (2, 3, 64, 64)


@pytest.mark.parametrize("decoder", WITH_LEVELS)
def test_the_others_refuse_the_stride_plateau(decoder: str) -> None:
    with pytest.raises(ValueError, match="Unsupported model downsampling pattern"):
        model_of(decoder, "detnet_atto")


def test_out_indices_that_leave_one_map_a_stride_serve_the_decoders_alone() -> None:
    features = timm.create_model("detnet_atto", features_only=True, out_indices=(0, 1, 2, 5))
    assert features.feature_info.reduction() == [2, 4, 8, 16]
    channels = [3, *features.feature_info.channels()]
    maps = [IMAGE, *features(IMAGE)]
    unet = UnetDecoder(encoder_channels=channels, decoder_channels=(16, 16, 8, 8), n_blocks=4)
    assert unet(maps).shape == (2, 8, 64, 64)
    pyramid = FPNDecoder(encoder_channels=channels, encoder_depth=4)
    assert pyramid(maps).shape == (2, 128, 16 * 2, 16 * 2)
