"""Whatever images and objects are given, a training step is torchvision's.

Each pair of detectors shares one small backbone, so that an example takes milliseconds.
"""

from dataclasses import replace
from unittest import mock

import pytest
import torch
from drawn_in_order import drawn_in_order, smooth
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, batched_nms, box_iou

from detnet.detection import DETECTORS, LevelRoIAlign, Pyramid, collate, slots
from detnet.detection.assignment import assign
from detnet.detection.detector import Normalization, PyramidBackbone
from detnet.detection.nms import best_of

NUM_CLASSES = 3
CHANNELS = 8
NUM_ROIS = 32
STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}

few = settings(
    max_examples=12, derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate]
)
many = settings(
    max_examples=60, derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate]
)
generators = st.integers(0, 999).map(torch.Generator().manual_seed)
# From sides below 68 pixels, padded to 96, torchvision would guess wrong strides
sizes = st.tuples(st.integers(68, 150), st.integers(68, 150))


def random_boxes(num, size, generator, on_border=False):
    """Boxes of all sizes from a pixel to the image's own; on the border, in two of its corners."""
    limit = torch.tensor([size[1], size[0]])
    side = 1 + (limit - 1) * torch.rand(num, 2, generator=generator) ** 2
    corner = (limit - side) * torch.rand(num, 2, generator=generator)
    boxes = torch.cat([corner, corner + side], dim=1)
    if on_border:
        boxes[::2, 2:] = limit.float()
        boxes[1::2, :2] = 0
    return boxes


@st.composite
def examples(draw):
    """One to three images of any shape, with no object, one, some or three hundred."""
    made = []
    for _ in range(draw(st.integers(1, 3))):
        size, generator = draw(sizes), draw(generators)
        num = draw(st.sampled_from([0, 1, 2, 9, 300]))
        boxes = random_boxes(num, size, generator, draw(st.booleans()))
        masks = torch.zeros(num, *size, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1 : y2 + 1, x1 : (x1 + x2) // 2 + 1] = 1
        target = {"boxes": boxes, "labels": torch.arange(num) % NUM_CLASSES + 1, "masks": masks}
        made.append((torch.rand(3, *size, generator=generator), target))
    return made


class Averages(nn.Module):
    """Stages that are averages of the image in mixed colors, and noise.

    Padding would look the same everywhere, and the order of equal scores is anyone's.
    """

    def __init__(self, stages):
        super().__init__()
        self.mix = nn.ModuleDict({stage: nn.Conv2d(3, CHANNELS, 1) for stage in stages})

    def forward(self, x):
        maps = {}
        for stage, mix in self.mix.items():
            pooled = nn.functional.avg_pool2d(x, STRIDES[stage])
            noise = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(0))
            maps[stage] = mix(pooled + noise)
        return maps


class Numbered(nn.Module):
    """A backbone whose levels have the names that torchvision knows."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.out_channels = CHANNELS

    def forward(self, x):
        return {str(k): level for k, level in enumerate(self.backbone(x).values())}


def torchvisions(name, backbone):
    """torchvision's detector, which leaves images at their sizes."""
    scales = [1, 2 ** (1 / 3), 2 ** (2 / 3)] if name == "retinanet" else [1]
    anchors = AnchorGenerator(
        tuple(tuple(int(32 * 2**level * scale) for scale in scales) for level in range(5)),
        ((0.5, 1.0, 2.0),) * 5,
    )
    if name == "retinanet":
        detector = RetinaNet(backbone, NUM_CLASSES + 1, anchor_generator=anchors)
    else:
        detector = {"faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN}[name](
            backbone,
            NUM_CLASSES + 1,
            rpn_anchor_generator=anchors,
            box_batch_size_per_image=NUM_ROIS,
        )
    detector.transform.resize = lambda image, target=None: (image, target)
    return detector


@pytest.fixture(scope="module", params=DETECTORS)
def both(request):
    """(torchvision's detector, ours): one backbone, and heads of the same weights."""
    torch.manual_seed(0)
    rois = {} if request.param == "retinanet" else {"num_sampled_rois": NUM_ROIS}
    spec = DETECTORS[request.param](channels=CHANNELS, **rois)
    stages = [stage for stage in STRIDES if int(stage[1:]) >= spec.finest_stage]
    pyramid = Pyramid(
        dict.fromkeys(stages, CHANNELS), STRIDES, CHANNELS, spec.extra_levels, 5 - len(stages)
    )
    backbone = PyramidBackbone(Averages(stages), pyramid)
    ours = spec.assemble(
        backbone, NUM_CLASSES, Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    theirs = torchvisions(request.param, Numbered(backbone))
    heads = {k: v for k, v in ours.state_dict().items() if not k.startswith("backbone.")}
    missing, unexpected = theirs.load_state_dict(heads, strict=False)
    assert all(name.startswith("backbone.") for name in missing)
    assert not unexpected
    return theirs, ours


@few
@given(pairs=examples())
def test_losses_and_gradients_are_torchvisions(both, pairs):
    theirs, ours = both
    batch = collate(pairs)
    # the same order in memory, or convolutions round otherwise
    batch = replace(batch, images=batch.images.contiguous())
    with drawn_in_order(), smooth():
        expected = theirs([image for image, _ in pairs], [dict(target) for _, target in pairs])
        found = ours(batch)
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-5, abs=1e-6), name
    shared = list(ours.backbone.parameters())
    gradients = [torch.autograd.grad(sum(losses.values()), shared) for losses in (expected, found)]
    for wanted, got in zip(*gradients, strict=True):
        assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@many
@given(pairs=examples(), generator=generators, best_counts=st.booleans(), counted=st.booleans())
def test_every_box_matches_the_object_that_torchvision_matches(
    pairs, generator, best_counts, counted
):
    boxes = random_boxes(200, (150, 150), generator)
    thresholds = {"object_iou": 0.6, "background_iou": 0.4, "best_counts": best_counts}
    with mock.patch.object(slots, "COUNTED_ON", ("cpu",) if counted else ()):
        matched, label = assign(boxes[None], collate(pairs).targets, **thresholds)
    matcher = Matcher(0.6, 0.4, allow_low_quality_matches=best_counts)
    for k, (_, target) in enumerate(pairs):
        if len(target["boxes"]) == 0:
            assert (label[k] == 0).all()
            continue
        expected = matcher(box_iou(target["boxes"], boxes))
        is_object = expected >= 0
        assert torch.equal(matched[k][is_object], expected[is_object])
        assert torch.equal(label[k][is_object], target["labels"][expected[is_object]])
        assert torch.equal(label[k][~is_object], expected[~is_object] + 1)  # -1 background, -2


@many
@given(
    generator=generators,
    num_boxes=st.integers(0, 300),
    num_groups=st.integers(1, 5),
    num=st.integers(1, 300),
    size=sizes,
    threshold=st.sampled_from([0.1, 0.5, 0.7]),
    on_border=st.booleans(),
)
def test_the_best_after_suppression_are_torchvisions(
    generator, num_boxes, num_groups, num, size, threshold, on_border
):
    boxes = random_boxes(num_boxes, size, generator, on_border)
    scores = (torch.rand(num_boxes, generator=generator) * 50).round() / 50  # some are equal
    groups = torch.randint(0, num_groups, (num_boxes,), generator=generator)
    is_valid = torch.rand(num_boxes, generator=generator) < 0.9
    index, counts = best_of(
        *(values[None] for values in (boxes, scores, groups, is_valid)), threshold, num
    )
    valid = is_valid.nonzero().squeeze(1)
    kept = batched_nms(boxes[valid], scores[valid], groups[valid], threshold)
    expected = torch.zeros(num_boxes, dtype=torch.bool)
    expected[valid[kept]] = True
    ranked = torch.where(expected, scores, -1.0).argsort(descending=True, stable=True)
    assert index[0, counts[0]].tolist() == ranked[: min(num, len(kept))].tolist()


@few
@given(
    generator=generators,
    size=st.tuples(*[st.integers(1, 6).map(lambda k: 32 * k)] * 2),
    num_images=st.integers(1, 3),
    num_rois=st.integers(0, 40),
    output_size=st.integers(1, 9),
    on_border=st.booleans(),
)
def test_pooled_rois_and_their_gradients_are_torchvisions(
    generator, size, num_images, num_rois, output_size, on_border
):
    strides = {f"p{stage[1:]}": stride for stage, stride in STRIDES.items()}
    maps = {
        level: torch.randn(num_images, 3, size[0] // s, size[1] // s, generator=generator)
        for level, s in strides.items()
    }
    for each in maps.values():
        each.requires_grad_()
    boxes = torch.stack(
        [random_boxes(num_rois, size, generator, on_border) for _ in range(num_images)]
    )
    boxes += torch.randint(-9, 9, boxes.shape[:2], generator=generator)[..., None]  # beyond it too
    pool = LevelRoIAlign(list(strides), strides, output_size)
    theirs = MultiScaleRoIAlign(list(strides), output_size, sampling_ratio=2)
    is_picked = torch.rand(num_images * num_rois, generator=generator) < 0.7
    slots = is_picked.nonzero().squeeze(1)
    found, expected = pool(maps, boxes, slots), theirs(maps, list(boxes), [size] * num_images)
    expected = expected[slots]
    assert torch.allclose(found, expected, atol=1e-5)
    weight = torch.randn(expected.shape, generator=generator)
    gradients = [
        torch.autograd.grad((pooled * weight).sum(), list(maps.values()), materialize_grads=True)
        for pooled in (found, expected)
    ]
    for got, wanted in zip(*gradients, strict=True):
        assert torch.allclose(got, wanted, atol=1e-5 * max(1, wanted.abs().max().item()))
