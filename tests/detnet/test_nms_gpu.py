"""The suppression that runs on a GPU, interpreted, and compiled for GPUs that are not there."""

import subprocess
import sys
from unittest import mock

import pytest
import torch
from commands import ROOT, environment

triton = pytest.importorskip("triton", reason="torch brings it along where it knows GPUs")

INTERPRETED = """
import torch
from torchvision.ops import nms
from detnet.detection import nms_gpu

nms_gpu.BLOCK_SIZE = 16  # several for the larger groups
torch.manual_seed(0)
for num_boxes, side, num_groups in ((70, 4.0, 3), (70, 20.0, 3), (40, 200.0, 1), (1, 20.0, 1)):
    corner = torch.rand(2, num_boxes, 2) * 100
    boxes = torch.cat([corner, corner + 1 + torch.rand(2, num_boxes, 2) * side], dim=2)
    scores = (torch.rand(2, num_boxes) * 20).round() / 20  # some are equal
    boxes[scores < 0.2] = 0  # as of what is no box
    groups = torch.randint(0, num_groups, (2, num_boxes))
    kept = nms_gpu.kept_in_groups(boxes, scores, groups, 0.5)
    for k in range(2):
        expected = torch.zeros(num_boxes, dtype=torch.bool)
        for group in groups[k].unique():
            index = (groups[k] == group).nonzero().squeeze(1)
            expected[index[nms(boxes[k, index], scores[k, index], 0.5)]] = True
        assert torch.equal(kept[k], expected), (num_boxes, side)
        print(int(expected.sum()), "of", num_boxes)
assert nms_gpu.kept_in_groups(boxes[:, :0], scores[:, :0], groups[:, :0], 0.5).shape == (2, 0)
"""


def test_what_the_kernel_keeps_is_what_torchvision_keeps():
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], cwd=ROOT,
        env={**environment(), "TRITON_INTERPRET": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8


@pytest.mark.parametrize("capability", [80, 90])  # A100, H100
def test_the_kernel_compiles_for_gpus(capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from detnet.detection.nms_gpu import BLOCK_SIZE, _suppress

    types = {"boxes": "*fp32", "ends": "*i32", "kept": "*i8", "num_boxes": "i32"}
    source = ASTSource(
        fn=_suppress,
        signature={**types, "threshold": "fp32", "block_size": "constexpr"},
        constexprs={"block_size": BLOCK_SIZE},
    )
    kernel = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": False}
    )
    assert kernel.asm["cubin"]
    assert "bar.sync" in kernel.asm["ptx"]


def test_nothing_waits_for_what_the_kernel_keeps(waits):
    from detnet.detection import nms_gpu

    boxes, scores = torch.rand(2, 30, 4), torch.rand(2, 30)
    kernel = mock.MagicMock()
    with mock.patch.object(nms_gpu, "_suppress", kernel), waits.counted() as counts:
        nms_gpu.kept_in_groups(boxes, scores, torch.zeros(2, 30, dtype=torch.int64), 0.5)
    kernel.__getitem__.assert_called_once_with((30, 2))
    assert not counts
