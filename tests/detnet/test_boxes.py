"""Batched boxes, matching, sampling and suppression against torchvision's, image by image."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from detnet.detection import boxes as box
from detnet.detection import collate
from detnet.detection.assignment import assign, sample
from detnet.detection.nms import _kept_at_once, best_of, kept_by_nms

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def random_boxes(*shape, seed=0, side=100.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * side
    return torch.cat(
        [corner, corner + torch.rand(*shape, 2, generator=generator) * side + 1], dim=-1
    )


def test_deltas_and_overlaps_are_torchvisions():
    objects, references = random_boxes(2, 50), random_boxes(2, 50, seed=1)
    coder = BoxCoder(WEIGHTS)
    deltas = box.encode(objects, references, WEIGHTS)
    decoded = box.decode(deltas, references, WEIGHTS)
    for k in range(2):
        assert torch.equal(deltas[k], coder.encode_single(objects[k], references[k]))
        assert torch.equal(decoded[k], coder.decode_single(deltas[k], references[k]))
        assert torch.equal(box.iou(objects, references)[k], box_iou(objects[k], references[k]))
    assert torch.allclose(decoded, objects, atol=1e-3)


def test_boxes_are_clipped_to_their_own_image():
    boxes = random_boxes(2, 3, 20) - 30
    clipped = box.clip(boxes, torch.tensor([[50, 60], [120, 40]]))
    for k, size in enumerate(((50, 60), (120, 40))):
        assert torch.equal(clipped[k], clip_boxes_to_image(boxes[k], size))


@pytest.mark.parametrize("best_counts", [True, False])
@pytest.mark.parametrize("num_objects", [(0, 0), (1, 0), (3, 300), (17, 2)])
def test_boxes_match_the_objects_that_torchvision_matches(num_objects, best_counts):
    anchors = random_boxes(400, seed=5)
    pairs = [
        (
            torch.zeros(3, 200, 200),
            {"boxes": random_boxes(n, seed=n), "labels": torch.arange(n) + 1},
        )
        for n in num_objects
    ]
    thresholds = {"object_iou": 0.6, "background_iou": 0.4, "best_counts": best_counts}
    matched, label = assign(anchors[None], collate(pairs).targets, **thresholds)
    matcher = Matcher(0.6, 0.4, allow_low_quality_matches=best_counts)
    for k, (_, target) in enumerate(pairs):
        if len(target["boxes"]) == 0:
            assert (label[k] == 0).all()
            continue
        expected = matcher(box_iou(target["boxes"], anchors))
        is_object = expected >= 0
        assert torch.equal(label[k] > 0, is_object)
        assert torch.equal(matched[k][is_object], expected[is_object])
        assert torch.equal(label[k][is_object], target["labels"][expected[is_object]])
        assert torch.equal(label[k] == 0, expected == Matcher.BELOW_LOW_THRESHOLD)
        assert torch.equal(label[k] == -1, expected == Matcher.BETWEEN_THRESHOLDS)


@pytest.mark.parametrize(
    ("num_objects", "num_background", "expected"),
    [
        (50, 50, (5, 15)),  # a quarter of objects at most
        (2, 50, (2, 18)),  # background fills up
        (50, 3, (5, 3)),
        (0, 0, (0, 0)),
        (0, 50, (0, 20)),
    ],
)
def test_a_sample_has_objects_first_and_no_box_twice(num_objects, num_background, expected):
    label = torch.full((1, 120), -1)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    label[0, order[:num_objects]] = 3
    label[0, order[num_objects : num_objects + num_background]] = 0
    drawn, counts = sample(label, 20, 5)
    kept = drawn[counts]
    assert len(kept.unique()) == len(kept)
    assert label[0, kept].tolist() == [3] * expected[0] + [0] * expected[1]


def test_every_box_is_drawn_as_often():
    label = torch.tensor([[1] * 10 + [0] * 10]).expand(4000, -1)
    torch.manual_seed(0)
    drawn, counts = sample(label, 8, 2)
    assert counts.all()
    often = torch.bincount(drawn.flatten(), minlength=20) / 4000
    # standard deviations of a share: below 0.008
    assert torch.allclose(often, torch.tensor([0.2] * 10 + [0.6] * 10), atol=0.04)


def kept_of_all(boxes, scores, groups, threshold):
    return kept_by_nms(boxes, scores, groups, threshold, num=scores.shape[1])


@pytest.mark.parametrize("keep", [kept_of_all, _kept_at_once])
def test_suppression_is_torchvisions_in_each_group_of_each_image(keep):
    boxes, scores = random_boxes(3, 200), torch.rand(3, 200)
    groups = torch.randint(0, 4, (3, 200))
    kept = keep(boxes, scores, groups, 0.5)
    for k in range(3):
        expected = torch.zeros(200, dtype=torch.bool)
        expected[batched_nms(boxes[k], scores[k], groups[k], 0.5)] = True
        assert torch.equal(kept[k], expected)


@pytest.mark.parametrize("num", [1, 7, 60, 200])
@pytest.mark.parametrize("side", [3.0, 30.0, 300.0])  # nearly all suppressed, some, nearly none
def test_the_best_that_suppression_leaves_are_torchvisions(num, side):
    boxes, scores = random_boxes(2, 200, side=side), torch.rand(2, 200)
    groups = torch.randint(0, 3, (2, 200))
    is_valid = torch.rand(2, 200) < 0.9
    index, counts = best_of(boxes, scores, groups, is_valid, 0.5, num)
    for k in range(2):
        valid = is_valid[k].nonzero().squeeze(1)
        expected = valid[batched_nms(boxes[k, valid], scores[k, valid], groups[k, valid], 0.5)]
        assert torch.equal(index[k, counts[k]], expected[:num])


def test_suppression_of_nothing_is_nothing():
    boxes, scores = torch.zeros(2, 0, 4), torch.zeros(2, 0)
    assert kept_by_nms(boxes, scores, scores.long(), 0.5, 5).shape == (2, 0)


def test_boxes_that_await_gradients_are_suppressed_too():
    boxes, scores = random_boxes(1, 30), torch.rand(1, 30)
    groups = torch.zeros(1, 30, dtype=torch.int64)
    expected = best_of(boxes, scores, groups, scores > 0.2, 0.5, 9)
    index, counts = best_of(boxes.requires_grad_(), scores, groups, scores > 0.2, 0.5, 9)
    assert torch.equal(index, expected[0])
    assert torch.equal(counts, expected[1])
