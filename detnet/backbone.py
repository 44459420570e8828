"""DetNet (Li et al., "DetNet: A Backbone network for Object Detection", arXiv 1804.06215).

Builds any `BackboneSpec`: DetNet-59, its ablations, and the ResNets it is compared with. Modules
carry ResNet's names (`conv1`, `bn1`, `layer1` = c2, ..., `layer5` = c6), so that timm, torchvision
and community weights load by name, and the class has the whole of timm's model interface.

Several stages share one stride (c4, c5, c6 at 16): address feature maps by index or stage name,
never by `reduction`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import (
    create_act_layer,
    create_classifier,
    get_act_layer,
    get_device_dtype,
    get_norm_layer,
)
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import nn

from detnet.blocks import BLOCK_LAYERS, NORM_LAYERS, ResidualBlock
from detnet.checkpoints import checkpoint_filter_fn
from detnet.spec import BackboneSpec, ResolvedStage

__all__ = ["DetNet", "checkpoint_filter_fn"]  # timm looks for a model's filter in its module


class DetNet(nn.Module):
    """A classifier and feature extractor for a spec: (B, in_chans, H, W) -> (B, num_classes).

    `act_layer` and `norm_layer` (a timm name or a class) override the spec's `activation` and
    `norm`; `drop_rate` is dropout before the classifier. Raises ValueError for a spec that does not
    `check()` or an activation that timm does not know.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        act_layer: Any = None,
        norm_layer: Any = None,
        drop_rate: float = 0.0,
        zero_init_last: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        spec.check()
        self.spec = spec
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        factory = {"device": device, "dtype": dtype}
        act_layer = _activation(act_layer or spec.activation)
        norm_layer = get_norm_layer(norm_layer) or NORM_LAYERS[spec.norm]

        self.conv1 = nn.Conv2d(
            in_chans, spec.stem_channels, 7, stride=2, padding=3, bias=False, **factory
        )
        self.bn1 = norm_layer(spec.stem_channels, **factory)
        self.act1 = create_act_layer(act_layer, inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        self.feature_info = [_map_info("stem", "act1", spec.stem_channels, 2)]

        stages = spec.resolve()
        drop_paths = _growing(spec.drop_path_rate, sum(stage.depth for stage in stages))
        for stage in stages:
            rates, drop_paths = drop_paths[: stage.depth], drop_paths[stage.depth :]
            blocks = _blocks(
                stage,
                rates,
                stride_on=spec.stride_on,
                norm_layer=norm_layer,
                act_layer=act_layer,
                **factory,
            )
            self.add_module(stage.module, nn.Sequential(*blocks))
            self.feature_info.append(
                _map_info(stage.name, stage.module, stage.channels, stage.total_stride)
            )
        self._num_maps = len(self.feature_info)  # TorchScript reads no list of mixed dicts

        self.num_features = stage.channels
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, **factory
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.init_weights(zero_init_last=zero_init_last)

    @torch.jit.ignore
    def init_weights(self, zero_init_last: bool = True) -> None:
        """Initialize every parameter and buffer afresh, also after `to_empty()`."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        if zero_init_last:
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    module.zero_init_last()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        blocks = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^(?:conv1|bn1)", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self, name_only: bool = False) -> str | nn.Module:
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head for `num_classes` (0: none); pooling stays unless given ('' turns it off)."""
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(
            self.num_features,
            num_classes,
            pool_type=self.global_pool.pool_type if global_pool is None else global_pool,
            **get_device_dtype(self),
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    # TorchScript has no getattr by name; it does unroll named_children() and fold the name's test.
    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Final features and the maps at `indices` (0 the stem, 1 c2, ...), in network order.

        indices: None takes all, an int the last so many, a sequence these (negatives from the end).
        stop_early: run no stage after the last map that is asked for.
        """
        assert output_fmt == "NCHW", "maps are NCHW"
        take_indices, max_index = feature_take_indices(self._num_maps, indices)
        intermediates: list[torch.Tensor] = []
        x = self.act1(self.bn1(self.conv1(x)))
        index = 0
        if index in take_indices:
            intermediates.append(x)
        x = self.maxpool(x)
        for name, stage in self.named_children():
            if name.startswith("layer"):
                index += 1
                if not stop_early or index <= max_index:
                    if self.grad_checkpointing and not torch.jit.is_scripting():
                        x = checkpoint_seq(stage, x)
                    else:
                        x = stage(x)
                    if index in take_indices:
                        intermediates.append(x)
        if intermediates_only:
            return intermediates
        return x, intermediates

    @torch.jit.ignore
    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop what comes after the last map of `indices`; returns them as absolute indices."""
        take_indices, max_index = feature_take_indices(self._num_maps, indices)
        for info in self.feature_info[max_index + 1 :]:
            setattr(self, info["module"], nn.Sequential())  # empty: checkpoint_seq iterates it
        if max_index == 0:
            self.maxpool = nn.Identity()
        ends_early = max_index < len(self.feature_info) - 1
        if ends_early:
            self.num_features = self.feature_info[max_index]["num_chs"]
        if prune_head or ends_early:
            self.reset_classifier(0, "")
        return take_indices

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_features, H/s, W/s) with the last stage's stride s."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        for name, stage in self.named_children():
            if name.startswith("layer"):
                if self.grad_checkpointing and not torch.jit.is_scripting():
                    x = checkpoint_seq(stage, x)
                else:
                    x = stage(x)
        return x

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.global_pool(x)
        if self.drop_rate:
            x = F.dropout(x, p=float(self.drop_rate), training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def _map_info(stage_name: str, module: str, channels: int, stride: int) -> dict[str, Any]:
    """timm's description of a feature map, and the paper's name for it."""
    return {"num_chs": channels, "reduction": stride, "module": module, "stage_name": stage_name}


def _blocks(stage: ResolvedStage, drop_paths: list[float], **shared: Any) -> list[ResidualBlock]:
    block: Any = BLOCK_LAYERS[stage.block]
    first = block(
        stage.in_channels,
        stage.width,
        stride=stage.stride,
        dilation=stage.dilation,
        first_dilation=stage.first_dilation,
        projection=stage.projection,
        drop_path=drop_paths[0],
        **shared,
    )
    others = [
        block(
            stage.channels,
            stage.width,
            dilation=stage.dilation,
            projection=stage.project_every_block,
            drop_path=drop_path,
            **shared,
        )
        for drop_path in drop_paths[1:]
    ]
    return [first, *others]


def _activation(layer: Any) -> Any:
    try:
        return get_act_layer(layer)
    except KeyError:
        raise ValueError(f"activation: timm knows no {layer!r}; use e.g. 'relu'") from None


def _growing(rate: float, num_blocks: int) -> list[float]:
    """From 0 at the first block to `rate` at the last: stochastic depth (Huang et al. 2016)."""
    return [rate * index / max(1, num_blocks - 1) for index in range(num_blocks)]
