"""On an ignored region nothing is background, and an object without a mask trains its box alone."""

import pytest
import timm
import torch

import detnet  # noqa: F401  (registers the zoo with timm)
from detnet.detection import DETECTORS, collate
from detnet.detection.assignment import assign
from detnet.detection.ignored import lies_on_ignored
from detnet.detection.proposals import Proposals

SIZE = 128
REGION = [16.0, 16, 80, 80]
OBJECT = [90.0, 90, 122, 122]


def detector(name, **fields):
    torch.manual_seed(0)
    body = timm.create_model("detnet_atto", features_only=True)
    spec = DETECTORS[name](channels=16, **fields)
    return spec.build(body, 3)


def target(boxes=(OBJECT,), regions=(REGION,)):
    boxes = torch.tensor(boxes).reshape(-1, 4)
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return {
        "boxes": boxes,
        "labels": torch.ones(len(boxes), dtype=torch.int64),
        "masks": masks,
        "ignored_boxes": torch.tensor(regions).reshape(-1, 4),
    }


def batch_of(*targets):
    generator = torch.Generator().manual_seed(1)
    return collate([(torch.rand(3, SIZE, SIZE, generator=generator), each) for each in targets])


def lie_on(boxes, regions):
    return lies_on_ignored(boxes[None], torch.tensor(regions).reshape(1, -1, 4))[0]


# The rule, by hand


def test_a_box_lies_on_a_region_that_holds_half_of_it():
    boxes = torch.tensor(
        [
            [16.0, 16, 80, 80],  # the region itself
            [20, 20, 30, 30],  # within it
            [48, 16, 112, 80],  # half of it
            [49, 16, 113, 80],  # 31 of 64 columns
            [0, 0, 128, 128],  # holds the region, which is a quarter of it
            [100, 100, 120, 120],
            [20, 20, 20, 20],  # no area
        ]
    )
    expected = [True, True, True, False, False, False, False]
    assert lie_on(boxes, [REGION]).tolist() == expected


def test_one_region_has_to_hold_half_and_no_region_holds_any():
    halves = [[0.0, 0, 10, 10], [20.0, 0, 30, 10]]
    assert lie_on(torch.tensor([[5.0, 0, 25, 10]]), halves).tolist() == [False]
    assert lie_on(torch.tensor([[0.0, 0, 9, 9]]), []).tolist() == [False]


def test_each_image_has_its_own_regions():
    boxes = torch.tensor([REGION])[None]
    targets = batch_of(target(), target(regions=())).targets
    assert lies_on_ignored(boxes, targets.ignored_boxes).tolist() == [[True], [False]]


# Sampled labels, by hand


def sampled(proposals, on_image):
    """{RoI: label} of what the RoI heads sample."""
    model = detector("faster_rcnn", box_head_channels=16)
    boxes = torch.tensor(proposals)[None]
    found = Proposals(boxes, torch.ones(boxes.shape[:2], dtype=torch.bool))
    rois, _, labels, counts = model.roi_heads.sample(found, batch_of(on_image).targets)
    return {
        tuple(roi): label
        for roi, label in zip(rois[counts].tolist(), labels[counts].tolist(), strict=True)
    }


def test_proposals_on_a_region_are_sampled_neither_way():
    near_object, background = [92.0, 90, 122, 122], [0.0, 90, 30, 120]
    proposals = [REGION, near_object, background]
    assert sampled(proposals, target()) == {
        tuple(OBJECT): 1,  # objects are among their proposals
        tuple(near_object): 1,
        tuple(background): 0,
    }
    assert sampled(proposals, target(boxes=())) == {tuple(near_object): 0, tuple(background): 0}


def test_a_proposal_that_matches_an_object_counts_on_a_region_too():
    near = [20.0, 20, 50, 52]
    on_object = target(boxes=([20.0, 20, 50, 50],))
    assert sampled([near], on_object) == {tuple(near): 1, (20, 20, 50, 50): 1}


def test_anchors_on_a_region_are_neither_and_those_on_objects_stay():
    inside, across = [20.0, 20, 40, 40], [70.0, 20, 110, 40]
    anchors = torch.tensor([inside, across, OBJECT, [0.0, 90, 30, 120]])[None]

    def labels(*targets):
        thresholds = {"object_iou": 0.7, "background_iou": 0.3, "best_counts": True}
        return assign(anchors, batch_of(*targets).targets, **thresholds).label.tolist()

    assert labels(target()) == [[-1, 0, 1, 0]]
    assert labels(target(boxes=())) == [[-1, 0, 0, 0]]
    assert labels(target(boxes=(inside,))) == [[1, 0, 0, 0]]  # an object stands in the crowd
    assert labels(target(boxes=()), target(boxes=(), regions=())) == [[-1, 0, 0, 0], [0, 0, 0, 0]]


# By the losses


def test_retinanets_loss_does_not_hear_what_is_said_on_a_region():
    model = detector("retinanet")
    said, anchors = [], []
    model.head.register_forward_hook(lambda _, __, output: said.append(output["cls_logits"]))
    model.anchor_generator.register_forward_hook(lambda _, __, output: anchors.extend(output))
    losses = model(batch_of(target()))
    heard = torch.autograd.grad(sum(losses.values()), said)[0][0].abs().sum(dim=1) > 0
    on_region = lie_on(torch.cat(anchors), [REGION])
    assert on_region.sum() > 100
    assert not heard[on_region].any()
    assert heard[~on_region].float().mean() > 0.9  # all but those between the thresholds


def test_the_proposal_networks_loss_does_not_hear_what_is_said_on_a_region():
    model = detector("faster_rcnn", box_head_channels=16, num_sampled_anchors=100_000)
    said, anchors = [], []
    model.rpn.head.register_forward_hook(lambda _, __, output: said.extend(output[0]))
    model.rpn.anchor_generator.register_forward_hook(lambda _, __, out: anchors.extend(out))
    losses = model(batch_of(target()))
    gradients = torch.autograd.grad(losses["loss_objectness"], said)
    heard = torch.cat([g[0].permute(1, 2, 0).reshape(-1) != 0 for g in gradients])
    on_region = lie_on(torch.cat(anchors), [REGION])
    assert on_region.sum() > 100
    assert not heard[on_region].any()
    assert heard[~on_region].float().mean() > 0.9


def test_retinanet_hears_of_the_objects_on_a_region():
    model = detector("retinanet")
    on_region = target(boxes=([20.0, 20, 52, 52],))
    without = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    with_object = model(batch_of(on_region))
    assert with_object["bbox_regression"] > 0
    assert model(batch_of(on_region | without))["bbox_regression"] == 0


@pytest.mark.parametrize("name", DETECTORS)
def test_no_region_and_all_masks_is_as_if_nothing_were_said(name):
    losses = []
    for extra in ({}, {"ignored_boxes": torch.zeros(0, 4), "has_mask": torch.tensor([True])}):
        plain = target()
        del plain["ignored_boxes"]
        model = detector(name)
        torch.manual_seed(1)
        losses.append({k: v.item() for k, v in model(batch_of(plain | extra)).items()})
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", DETECTORS)
def test_an_image_that_is_ignored_as_a_whole_trains_as_far_as_it_can(name):
    far = 10.0 * SIZE  # anchors reach beyond the image
    whole = target(boxes=(), regions=([-far, -far, far, far],))
    model = detector(name)
    losses = model(batch_of(whole))
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# Masks


def mask_loss(has_mask, masks_of_first=None):
    """loss_mask, the other losses, and how many masks it hears of, always of the same RoIs."""
    two = target(boxes=(OBJECT, REGION), regions=())
    if masks_of_first is not None:
        two["masks"][0] = masks_of_first
    two["has_mask"] = torch.tensor(has_mask)
    model = detector("mask_rcnn", box_head_channels=16, mask_head_channels=16)
    said = []
    model.roi_heads.mask_predictor.register_forward_hook(lambda _, __, output: said.append(output))
    torch.manual_seed(1)
    losses = model(batch_of(two))
    (gradient,) = torch.autograd.grad(losses["loss_mask"], said)
    num_heard = int((gradient != 0).flatten(1).any(dim=1).sum())
    values = {name: loss.item() for name, loss in losses.items()}
    return values.pop("loss_mask"), values, num_heard


def test_the_mask_loss_leaves_out_objects_without_a_mask():
    (both, others, num), (first, others_first, num_first), (second, _, num_second) = (
        mask_loss([True, True]), mask_loss([True, False]), mask_loss([False, True])
    )  # fmt: skip
    assert others_first == others  # the box is trained all the same
    assert num == num_first + num_second
    assert min(num_first, num_second) > 0
    # a mean over RoIs of one size: the whole is the weighted mean of its parts
    assert num * both == pytest.approx(num_first * first + num_second * second, rel=1e-5)


def test_a_mask_that_is_not_known_is_not_looked_at():
    assert mask_loss([False, True], masks_of_first=1) == mask_loss([False, True], masks_of_first=0)
    assert mask_loss([True, True], masks_of_first=1) != mask_loss([True, True], masks_of_first=0)


def test_no_known_mask_at_all_trains():
    loss, others, num = mask_loss([False, False])
    assert (loss, num) == (0.0, 0)
    assert all(value > 0 for value in others.values())
