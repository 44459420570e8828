"""One model in several processes: gradients averaged, batch norms that see the whole batch.

Averaging is torch's own, and so are synchronized batch norms on GPUs. Those know no CPU, so there
they are written out here.
"""

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ablations.runtime import Runtime


def parallel(model: nn.Module, runtime: Runtime, *, synchronized: bool) -> nn.Module:
    """What to call in place of `model`, so that all processes train the same one.

    It starts as the main process has it. `synchronized` batch norms take their statistics over the
    batches of all processes; else each process takes its own.
    """
    if runtime.world_size == 1:
        return model
    if synchronized:
        _synchronize(model, runtime)
    # A parameter that no loss depends on is waited for once, not in every step
    return DistributedDataParallel(model, static_graph=True)


@torch.no_grad()
def align(model: nn.Module, runtime: Runtime) -> None:
    """Give every process the statistics that the main one's batch norms keep."""
    if runtime.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def _synchronize(model: nn.Module, runtime: Runtime) -> None:
    """Only what learns its statistics: frozen norms are no batch norms here."""
    if runtime.is_gpu:
        convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if type(module) in _ON_CPU:
            module.__class__ = _ON_CPU[type(module)]


class _Sum(torch.autograd.Function):
    """The sum over the processes, each of whose losses depends on every addend."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradients[0])


class _SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, in float32 inside: (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        dims = (0, 2, 3)
        own_num = values.new_tensor([values.numel() / values.shape[1]])
        sums = _Sum.apply(torch.cat([values.sum(dims), own_num]))
        num = sums[-1].detach()
        mean = (sums[:-1] / num).view(1, -1, 1, 1)
        centered = values - mean
        variance = _Sum.apply(centered.square().sum(dims)) / num
        self._keep(mean.flatten(), variance, num)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        out = centered * scale.view(1, -1, 1, 1)
        if self.affine:
            out = out + self.bias.view(1, -1, 1, 1)
        return out.to(x.dtype)

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor, num: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * num / (num - 1), share)


class _SyncedBatchNormAct2d(_SyncedBatchNorm2d):
    """timm's, which drops and activates what it normed."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


_ON_CPU: dict[type[Any], type[nn.Module]] = {
    nn.BatchNorm2d: _SyncedBatchNorm2d,
    BatchNormAct2d: _SyncedBatchNormAct2d,
}
