"""How far a network sees: the effective receptive field of its feature maps, by gradients.

The theoretical field (`detnet.cost`) is all that one output position can depend on; what it does
depend on is much less, and falls off from the center (Luo et al., "Understanding the effective
receptive field in deep convolutional neural networks", NeurIPS 2016). Measured as there: the
gradient of the center of a map with respect to the image says how much each pixel contributes. It
depends on the weights, so it says something of trained networks alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

THRESHOLD = 1 - 0.9545
"""Share of the largest contribution from which a pixel counts: two deviations of a Gaussian."""


@dataclass(frozen=True)
class EffectiveField:
    """What the center of a feature map depends on."""

    contributions: Tensor
    """(H, W): mean over images of the absolute gradient, summed over the image's channels."""

    @property
    def side(self) -> float:
        """Side, in input pixels, of the square as large as the pixels that count; 0 if none do."""
        most = self.contributions.max()
        if most <= 0:
            return 0.0
        return float((self.contributions > THRESHOLD * most).sum()) ** 0.5


def effective_fields(
    features: Callable[[Tensor], Mapping[str, Tensor]], images: Tensor
) -> dict[str, EffectiveField]:
    """The field of every map that `features` gives by stage, over images (N, C, H, W).

    Take images several times as large as the field, which they cut off. `features` is to be in
    evaluation mode: batch statistics would let every pixel reach every output.
    """
    totals: dict[str, Tensor] = {}
    with torch.enable_grad():
        for image in images.split(1):
            image = image.detach().requires_grad_()
            for stage, feature_map in features(image).items():
                center = feature_map[..., feature_map.shape[-2] // 2, feature_map.shape[-1] // 2]
                (gradient,) = torch.autograd.grad(center.sum(), image, retain_graph=True)
                contribution = gradient.abs().sum(dim=(0, 1))
                totals[stage] = totals.get(stage, torch.zeros_like(contribution)) + contribution
    return {stage: EffectiveField(total / len(images)) for stage, total in totals.items()}
