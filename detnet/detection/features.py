"""Any timm feature network as a mapping from stage name to feature map."""

from typing import Any

from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn


class FeatureExtractor(nn.Module):
    """Names the maps of a `features_only` timm model c1, c2, ... by their order.

    The first map of stride 4 is c2, as in the papers; those after it count on, whatever their
    stride, so a stride plateau keeps all its stages.

    Raises ValueError where the network has no map of stride 4, its strides ever fall, or its
    `out_indices` do not rise: timm gives the maps in the network's order, whatever they say.
    """

    def __init__(self, body: nn.Module, name: str = "backbone") -> None:
        super().__init__()
        self.body = body
        info: Any = body.feature_info
        indices = [index % len(info.info) for index in info.out_indices]  # -1 is the last
        if indices != sorted(set(indices)):
            raise ValueError(f"{name}: out_indices={indices}: give each map once, in rising order")
        strides = list(info.reduction())
        if 4 not in strides or strides != sorted(strides):
            raise ValueError(
                f"{name}: a pyramid needs feature maps from stride 4 on, this network has "
                f"{strides}; choose a hierarchical backbone, or out_indices that include stride 4"
            )
        first = 2 - strides.index(4)
        self.stages = [f"c{first + index}" for index in range(len(strides))]
        self.strides = dict(zip(self.stages, strides, strict=True))
        self.channels = dict(zip(self.stages, info.channels(), strict=True))
        self._module_of_stage = dict(zip(self.stages, info.module_name(), strict=True))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {"c2": (B, C, H/4, W/4), ...}."""
        maps = dict(zip(self.stages, self.body(x), strict=True))
        return {
            stage: self._channels_first(stage, feature_map) for stage, feature_map in maps.items()
        }

    def _channels_first(self, stage: str, feature_map: Tensor) -> Tensor:
        # Swin and its like put channels last and do not say so.
        channels = self.channels[stage]
        if feature_map.shape[1] != channels and feature_map.shape[-1] == channels:
            return feature_map.permute(0, 3, 1, 2).contiguous()
        return feature_map

    def freeze(self, last_stage: str) -> list[str]:
        """Stop training everything up to the end of a stage; returns the parameters' names.

        Batch norm in it keeps its running statistics, in training mode too.

        Raises ValueError for a stage that this network does not have.
        """
        if last_stage not in self.stages:
            raise ValueError(
                f"freeze={last_stage!r}: this backbone's stages are {', '.join(self.stages)}"
            )
        later = self.stages[self.stages.index(last_stage) + 1 :]
        frozen = []
        for name, parameter in self.body.named_parameters():
            if any(self._belongs_to(name, stage) for stage in later):
                break
            parameter.requires_grad_(False)
            frozen.append(name)
        for name in {name.rpartition(".")[0] for name in frozen}:
            self._fix_statistics(name)
        return frozen

    def _belongs_to(self, parameter_name: str, stage: str) -> bool:
        # timm's wrappers flatten "stages.0" to "stages_0", or put the network under "model"
        module = self._module_of_stage[stage]
        places = (module, module.replace(".", "_"), f"model.{module}")
        return parameter_name.startswith(tuple(f"{place}." for place in places))

    def _fix_statistics(self, module_name: str) -> None:
        parent_name, _, child_name = module_name.rpartition(".")
        fixed = freeze_batch_norm_2d(self.body.get_submodule(module_name))
        setattr(self.body.get_submodule(parent_name), child_name, fixed)
