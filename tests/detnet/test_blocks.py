"""Blocks A, B and C are one bottleneck; its norms suit narrow members and frozen training."""

import pytest
import torch
from timm.layers import DropPath
from timm.models.resnet import BasicBlock as TimmBasicBlock
from timm.models.resnet import Bottleneck as TimmBottleneck
from torch import nn

from detnet.blocks import BLOCK_LAYERS, NORM_LAYERS, BasicBlock, Bottleneck, group_norm
from detnet.spec import BLOCKS


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and norm statistics away from their initial values, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0.0, 0.2, generator=generator)
    return module.eval()


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_stride_on_3x3_is_timms_bottleneck(stride: int, dilation: int) -> None:
    downsample = nn.Sequential(nn.Conv2d(16, 32, 1, stride, bias=False), nn.BatchNorm2d(32))
    reference = randomized(TimmBottleneck(16, 8, stride, downsample=downsample, dilation=dilation))
    block = Bottleneck(
        16, 8, stride=stride, dilation=dilation, projection=True, stride_on="3x3"
    ).eval()
    block.load_state_dict(reference.state_dict())
    x = torch.randn(2, 16, 12, 12)
    assert torch.equal(block(x), reference(x))


@pytest.mark.parametrize(
    ("stride", "dilation", "first_dilation"), [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 4, 2)]
)
def test_the_basic_block_is_timms(stride: int, dilation: int, first_dilation: int) -> None:
    downsample = nn.Sequential(nn.Conv2d(16, 8, 1, stride, bias=False), nn.BatchNorm2d(8))
    geometry = {"stride": stride, "dilation": dilation, "first_dilation": first_dilation}
    reference = randomized(TimmBasicBlock(16, 8, downsample=downsample, **geometry))
    block = BasicBlock(16, 8, projection=True, **geometry).eval()
    block.load_state_dict(reference.state_dict())
    x = torch.randn(2, 16, 12, 12)
    assert torch.equal(block(x), reference(x))


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_has_the_numbers_that_its_spec_knows(name: str) -> None:
    assert BLOCK_LAYERS.keys() == BLOCKS.keys()
    block = BLOCK_LAYERS[name](4, 6, projection=True)
    assert block(torch.rand(2, 4, 8, 8)).shape == (2, BLOCKS[name].expansion * 6, 8, 8)
    in_a_row = [n for n, m in block.named_children() if isinstance(m, nn.Conv2d)]
    assert len(in_a_row) == BLOCKS[name].num_layers
    opens_with_3x3 = block.get_submodule("conv1").kernel_size == (3, 3)
    assert BLOCKS[name].opens_with_3x3 == opens_with_3x3


@pytest.mark.parametrize(("stride_on", "strides"), [("1x1", (2, 1, 1)), ("3x3", (1, 2, 1))])
def test_stride_sits_where_it_is_asked_for(stride_on: str, strides: tuple[int, ...]) -> None:
    block = Bottleneck(16, 4, stride=2, projection=True, stride_on=stride_on)
    assert tuple(conv.stride[0] for conv in (block.conv1, block.conv2, block.conv3)) == strides
    assert block(torch.rand(2, 16, 9, 9)).shape == (2, 16, 5, 5)


def test_block_a_adds_its_input_and_block_b_a_projection_of_it() -> None:
    x = torch.rand(2, 16, 8, 8)  # positive: the last ReLU is the identity on it
    block_a = Bottleneck(16, 4, dilation=2).eval()
    block_a.zero_init_last()
    assert torch.equal(block_a(x), x)
    block_b = Bottleneck(16, 4, dilation=2, projection=True).eval()
    block_b.zero_init_last()
    projected = torch.relu(block_b.downsample(x))
    assert torch.equal(block_b(x), projected)
    assert not torch.allclose(projected, x)


def test_dilation_widens_the_reach_and_keeps_the_map() -> None:
    for dilation in (1, 2, 4):
        block = randomized(Bottleneck(8, 2, dilation=dilation))
        x = torch.zeros(1, 8, 17, 17, requires_grad=True)
        out = block(x)
        assert out.shape == x.shape
        out[0, :, 8, 8].sum().backward()
        rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
        assert (rows.min(), rows.max()) == (8 - dilation, 8 + dilation)
        assert block.conv2.dilation == (dilation, dilation)


def test_drop_path_drops_whole_branches_in_training_only() -> None:
    block = Bottleneck(16, 4, drop_path=0.5)
    nn.init.constant_(block.bn3.weight, 1.0)
    assert isinstance(block.drop_path, DropPath)
    x = torch.rand(64, 16, 4, 4)
    torch.manual_seed(0)
    kept_shortcut = (block.train()(x.clone()) == x).flatten(1).all(1)
    assert 16 < kept_shortcut.sum() < 48  # binomial(64, 0.5) leaves this range once in 20,000
    assert not (block.eval()(x.clone()) == x).flatten(1).all(1).any()


# Group norm: (channels, groups)


@pytest.mark.parametrize(
    ("channels", "groups"),
    [
        (64, 32),
        (256, 32),
        (2048, 32),
        (32, 16),
        (8, 4),
        (24, 8),
        (96, 32),
        (33, 1),
        (34, 2),
        (1, 1),
    ],
)
def test_groups_divide_the_channels_and_hold_two_at_least(channels: int, groups: int) -> None:
    norm = group_norm(channels)
    assert norm.num_groups == groups
    assert norm(torch.rand(1, channels, 2, 2)).shape == (1, channels, 2, 2)


def test_group_norm_fits_every_width() -> None:
    for channels in range(1, 300):
        groups = group_norm(channels).num_groups
        powers = [g for g in (1, 2, 4, 8, 16, 32) if channels % g == 0 and channels // g >= 2]
        assert groups == max(powers, default=1)


# Frozen batch norm


def test_frozen_norm_is_batch_norm_in_evaluation_whatever_the_mode() -> None:
    batch = randomized(nn.BatchNorm2d(6))
    frozen = NORM_LAYERS["frozen_batch"](6)
    frozen.load_state_dict(batch.state_dict())  # num_batches_tracked and all
    x = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(frozen.train()(x), batch(x))
    assert torch.equal(frozen.running_mean, batch.running_mean)
    assert not list(frozen.parameters())


def test_frozen_norm_keeps_half_precision() -> None:
    frozen = NORM_LAYERS["frozen_batch"](6)
    assert frozen(torch.rand(2, 6, 5, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_zero_init_spares_a_frozen_scale_that_could_never_grow_again() -> None:
    block = Bottleneck(16, 4, norm_layer=NORM_LAYERS["frozen_batch"])
    block.zero_init_last()
    assert torch.equal(block.bn3.weight, torch.ones(16))
    learned = Bottleneck(16, 4)
    learned.zero_init_last()
    assert torch.equal(learned.bn3.weight, torch.zeros(16))
