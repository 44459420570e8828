"""Our detectors against torchvision's with the same weights, and what no detector must do."""

from dataclasses import replace
from unittest import mock

import pytest
import timm
import torch
from drawn_in_order import drawn_in_order, smooth
from torchvision.models.detection import (
    fasterrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
)
from torchvision.ops import box_iou

import detnet  # noqa: F401  (registers the zoo with timm)
from detnet.detection import (
    DETECTORS,
    FasterRCNNSpec,
    FeatureExtractor,
    MaskRCNNSpec,
    RetinaNetSpec,
    collate,
    slots,
)

SIZES = ((96, 128), (128, 96))
NO_OBJECT = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def examples(num_objects=(4, 4), with_masks=False, sizes=SIZES, on_border=False):
    """Images and torchvision's targets."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for num, (height, width) in zip(num_objects, sizes, strict=True):
        image = torch.rand(3, height, width, generator=generator)
        corner = torch.rand(num, 2, generator=generator) * 50
        size = torch.rand(num, 2, generator=generator) * 30 + 8
        boxes = torch.cat([corner, corner + size], dim=1)
        if on_border:
            boxes[::2, 2:] = torch.tensor([width, height], dtype=torch.float32)
            boxes[1::2, :2] = 0
        target = {"boxes": boxes, "labels": torch.arange(num) % 3 + 1}
        if with_masks:
            target["masks"] = torch.zeros(num, height, width, dtype=torch.uint8)
            for mask, (x1, y1, x2, y2) in zip(target["masks"], boxes.int().tolist(), strict=True):
                mask[y1:y2, x1:x2] = 1
        made.append((image, target))
    return made


def batch(**options):
    return collate(examples(**options))


def narrow(name):
    """A detector of few channels."""
    heads = {"faster_rcnn": ("box",), "mask_rcnn": ("box", "mask"), "retinanet": ()}[name]
    return DETECTORS[name](channels=16, **{f"{head}_head_channels": 32 for head in heads})


def small(spec, name="detnet_atto", num_classes=3, **options):
    body = timm.create_model(name, features_only=True, **options)
    return spec.build(body, num_classes)


def copy_of(theirs, spec):
    """Our detector with torchvision's weights; its body is our ResNet-50, stride on the 3x3."""
    body = timm.create_model("detnet_resnet50", stride_on="3x3", features_only=True)
    ours = spec.build(body, 3)
    backbone = ours.backbone
    backbone.features.body.load_state_dict(theirs.backbone.body.state_dict())
    pyramid, fpn = backbone.pyramid, theirs.backbone.fpn
    for index, level in enumerate(pyramid.lateral):
        pyramid.lateral[level].load_state_dict(fpn.inner_blocks[index][0].state_dict())
        pyramid.output[level].load_state_dict(fpn.layer_blocks[index][0].state_dict())
    if spec.extra_levels == "convolution":
        pyramid.extra.load_state_dict(fpn.extra_blocks.state_dict())
    heads = {k: v for k, v in theirs.state_dict().items() if not k.startswith("backbone.")}
    missing, unexpected = ours.load_state_dict(heads, strict=False)
    assert all(name.startswith("backbone.") for name in missing)
    assert not unexpected
    return ours


def pair(name):
    """torchvision's detector and ours with the same weights; images keep their sizes."""
    build, spec = {
        "faster_rcnn": (fasterrcnn_resnet50_fpn, FasterRCNNSpec()),
        "mask_rcnn": (maskrcnn_resnet50_fpn, MaskRCNNSpec()),
        "retinanet": (
            retinanet_resnet50_fpn,
            RetinaNetSpec(
                num_detections=300,  # torchvision's default
                score_threshold=0.005,  # below the prior of 0.01, so that there are detections
            ),
        ),
    }[name]
    torch.manual_seed(0)
    options = {} if isinstance(spec, FasterRCNNSpec) else {"score_thresh": spec.score_threshold}
    theirs = build(weights=None, weights_backbone=None, num_classes=4, **options)
    theirs.transform.resize = lambda image, target=None: (image, target)
    return theirs, copy_of(theirs, spec)


@pytest.fixture(scope="module", params=DETECTORS)
def both(request):
    return (request.param, *pair(request.param))


CASES = {
    "several": {"num_objects": (4, 5)},
    "none": {"num_objects": (0, 0)},
    "one, none and many": {"num_objects": (1, 0, 20), "sizes": ((96, 160), (160, 96), (90, 100))},
    "on the border": {"num_objects": (4, 3), "on_border": True},
    "three hundred": {"num_objects": (300, 2)},
}


def losses_of_both(both, case):
    """(torchvision's losses, ours) of the same sampled anchors and RoIs."""
    name, theirs, ours = both
    pairs = examples(with_masks=name == "mask_rcnn", **CASES[case])
    theirs.train(), ours.train()
    given = collate(pairs)
    # the same order in memory, or convolutions round otherwise
    given = replace(given, images=given.images.contiguous())
    with drawn_in_order():
        expected = theirs([image for image, _ in pairs], [target for _, target in pairs])
        return expected, ours(given)


@pytest.mark.parametrize("case", CASES)
def test_losses_are_torchvisions(both, case):
    expected, found = losses_of_both(both, case)
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-5, abs=1e-6), name


def names_of_both(theirs, ours):
    """(torchvision's name, ours) of every parameter that trains."""
    places = {"backbone.body": "backbone.features.body", "backbone.fpn": "backbone.pyramid"}
    places["backbone.fpn.extra_blocks"] = "backbone.pyramid.extra"
    for index, level in enumerate(ours.backbone.pyramid.lateral):
        for block, part in (("inner_blocks", "lateral"), ("layer_blocks", "output")):
            places[f"backbone.fpn.{block}.{index}.0"] = f"backbone.pyramid.{part}.{level}"
    for name, parameter in theirs.named_parameters():
        place = max((p for p in places if name.startswith(f"{p}.")), key=len, default="")
        if parameter.requires_grad:
            yield name, places.get(place, place) + name.removeprefix(place)


def test_gradients_are_torchvisions(both):
    _, theirs, ours = both
    with smooth():
        expected, found = losses_of_both(both, "several")
    names = list(names_of_both(theirs, ours))
    assert {name for _, name in names} == {name for name, _ in ours.named_parameters()}
    gradients = [
        torch.autograd.grad(sum(losses.values()), [parameters[name] for name in chosen])
        for losses, parameters, chosen in zip(
            (expected, found),
            (dict(theirs.named_parameters()), dict(ours.named_parameters())),
            zip(*names, strict=True),
            strict=True,
        )
    ]
    for (name, _), wanted, got in zip(names, *gradients, strict=True):
        assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max(), name


def test_detections_are_torchvisions(both):
    _, theirs, ours = both
    theirs.eval(), ours.eval()
    pairs = examples(**CASES["one, none and many"])
    given = collate(pairs)
    given = replace(given, images=given.images.contiguous())
    with torch.no_grad():
        expected, found = theirs([image for image, _ in pairs]), ours(given)
    for wanted, got in zip(expected, found, strict=True):
        assert len(wanted["boxes"]) > 0
        assert torch.allclose(got["scores"], wanted["scores"], atol=1e-5)
        # equal scores may stand in either order
        orders = [x["boxes"].sum(dim=1).argsort() for x in (got, wanted)]
        for name in ("boxes", "labels"):
            assert torch.allclose(got[name][orders[0]], wanted[name][orders[1]], atol=1e-3), name
        if "masks" in wanted:
            difference = got["masks"][orders[0]] - wanted["masks"][orders[1]]
            assert difference.abs().mean() < 1e-4


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
@pytest.mark.parametrize("num_objects", [(0, 0), (1, 0), (4, 30)])
def test_empty_slots_change_neither_losses_nor_gradients(name, num_objects):
    torch.manual_seed(0)
    model = small(narrow(name))
    given = batch(with_masks=True, num_objects=num_objects)
    losses, gradients = [], []
    for devices in (slots.COUNTED_ON, ()):
        with mock.patch.object(slots, "COUNTED_ON", devices):
            torch.manual_seed(1)
            losses.append(model(given))
        total = torch.stack(list(losses[-1].values())).sum()
        gradients.append(torch.autograd.grad(total, list(model.parameters())))
    for skipped, computed in zip(losses[0].values(), losses[1].values(), strict=True):
        assert skipped.item() == pytest.approx(computed.item(), rel=1e-6)
    for skipped, computed in zip(*gradients, strict=True):
        assert (skipped - computed).abs().max() <= 1e-5 * computed.abs().max()


def test_the_mask_head_sees_known_objects_alone():
    torch.manual_seed(0)
    model = small(narrow("mask_rcnn"))
    seen = []
    model.roi_heads.mask_head.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    model(batch(with_masks=True, num_objects=(0, 0)))
    model(batch(with_masks=True, num_objects=(1, 0)))
    assert seen[0] == 0
    assert 1 <= seen[1] < model.roi_heads.num_objects


def test_on_a_stride_plateau_every_pooled_level_gets_rois_and_gradient():
    torch.manual_seed(0)
    model = small(FasterRCNNSpec())
    pool = model.roi_heads.box_roi_pool
    assert pool.levels == ["p2", "p3", "p4", "p5", "p6"]
    boxes = torch.tensor([[[0.0, 0, s, s] for s in (60, 130, 250, 460, 900)]])
    maps = model.backbone(torch.rand(1, 3, 1024, 1024))
    pooled = pool(maps, boxes)
    assert sorted(pool.assign(boxes[0]).tolist()) == [0, 1, 2, 3, 4]
    gradients = torch.autograd.grad(pooled.sum(), list(maps.values()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_parameter_of_a_detnet_detector_trains(name):
    torch.manual_seed(0)
    spec = narrow(name)
    model = small(spec)
    sum(model(batch(with_masks=True)).values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("name", DETECTORS)
def test_mixed_precision_gives_nearly_the_same_losses(name):
    torch.manual_seed(0)
    spec = narrow(name)
    model = small(spec)
    given = batch(with_masks=True)
    losses = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(sum(model(given).values()).item())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("name", DETECTORS)
def test_mixed_precision_leaves_boxes_and_scores_in_full_precision(name):
    # bfloat16 has no odd numbers above 256
    torch.manual_seed(0)
    spec = narrow(name)
    spec.score_threshold = 0.0
    model = small(spec).eval()
    seen = []
    if name != "retinanet":
        model.roi_heads.box_roi_pool.register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[1].dtype)
        )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = model(batch())
    assert len(outputs[0]["boxes"]) > 0
    dtypes = {value.dtype for output in outputs for value in output.values()} | set(seen)
    assert dtypes == {torch.float32, torch.int64}


def test_padding_is_zero_after_normalization():
    model = small(FasterRCNNSpec())
    given = collate([(torch.ones(3, 123, 160), NO_OBJECT), (torch.ones(3, 40, 160), NO_OBJECT)])
    normalized = model.normalize(given.images, given.sizes)
    assert normalized.shape == (2, 3, 128, 160)
    assert (normalized[1, :, :40] != 0).all()
    assert (normalized[1, :, 40:] == 0).all()
    assert torch.allclose(
        normalized[0, :, 0, 0],
        (1 - torch.tensor([0.485, 0.456, 0.406])) / model.normalize.std[:, 0, 0],
    )


def test_bytes_are_the_images_in_255ths():
    model = small(FasterRCNNSpec())
    stored = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    given = [collate([(image, NO_OBJECT)]) for image in (stored, stored.float() / 255)]
    normalized = [model.normalize(each.images, each.sizes) for each in given]
    assert torch.equal(*normalized)


def test_detections_are_in_the_images_own_pixels():
    torch.manual_seed(0)
    model = small(FasterRCNNSpec(channels=16, box_head_channels=32, score_threshold=0.0)).eval()
    given = batch()
    with torch.no_grad():
        as_given = model(given)
        halved = model(replace(given, original_sizes=[(48, 64), (64, 48)]))
    for whole, half in zip(as_given, halved, strict=True):
        assert torch.allclose(half["boxes"], whole["boxes"] / 2)


@pytest.mark.parametrize("name", DETECTORS)
def test_an_image_is_found_the_same_alone_and_in_a_batch(name):
    torch.manual_seed(0)
    spec = narrow(name)
    spec.score_threshold = 0.0
    model = small(spec).eval()
    same_size = {"sizes": ((96, 96), (96, 96), (96, 96)), "num_objects": (0, 0, 0)}
    pairs = examples(**same_size)
    with torch.no_grad():
        together = model(collate(pairs))
        alone = [model(collate([each]))[0] for each in pairs]
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one["scores"], other["scores"], atol=1e-5)


def test_losses_that_are_no_numbers_end_in_no_other_fault():
    # what a loss that is not finite leaves in the weights, until it is read a few steps later
    for name in DETECTORS:
        model = small(narrow(name))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float("nan"))
        losses = model(batch(with_masks=True))
        assert all(loss.isnan() for loss in losses.values())


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "regnetx_002"])
def test_any_hierarchical_timm_network_serves_as_backbone(name):
    model = small(FasterRCNNSpec(channels=16, box_head_channels=32), name).eval()
    assert model.backbone.pyramid.levels == ["p2", "p3", "p4", "p5", "p6"]
    assert model.roi_heads.box_roi_pool.levels == ["p2", "p3", "p4", "p5"]
    with torch.no_grad():
        assert len(model(batch())) == 2


def test_a_network_that_puts_channels_last_is_turned():
    body = timm.create_model("swin_tiny_patch4_window7_224", features_only=True)
    maps = FeatureExtractor(body)(torch.rand(1, 3, 224, 224))
    shapes = {stage: tuple(feature_map.shape[1:]) for stage, feature_map in maps.items()}
    assert shapes == {
        "c2": (96, 56, 56),
        "c3": (192, 28, 28),
        "c4": (384, 14, 14),
        "c5": (768, 7, 7),
    }


def test_a_network_without_stride_4_is_refused_by_name():
    body = timm.create_model("vit_tiny_patch16_224", features_only=True)
    with pytest.raises(ValueError, match=r"my_vit: a pyramid needs feature maps from stride 4"):
        FeatureExtractor(body, "my_vit")


@pytest.mark.parametrize("out_indices", [(1, 2, 4, 3), (1, 2, 2, 3), (4, 3, 2, 1)])
@pytest.mark.parametrize("name", ["detnet_atto", "resnet18"])
def test_maps_are_given_once_and_in_order(name, out_indices):
    # timm gives them in the network's order: `freeze` would name another stage than the map
    body = timm.create_model(name, features_only=True, out_indices=out_indices)
    with pytest.raises(
        ValueError, match=rf"{name}: out_indices=\[.*each map once, in rising order"
    ):
        FeatureExtractor(body, name)


def test_negative_out_indices_count_from_the_end():
    body = timm.create_model("detnet_atto", features_only=True, out_indices=(1, 2, -2, -1))
    assert FeatureExtractor(body).strides == {"c2": 4, "c3": 8, "c4": 16, "c5": 16}


@pytest.mark.parametrize("name", ["detnet_atto", "resnet18", "convnext_atto"])
def test_freezing_stops_everything_up_to_a_stage_and_nothing_after(name):
    body = timm.create_model(name, features_only=True)
    features = FeatureExtractor(body).train()
    features.freeze("c2")
    before = [b.clone() for b in body.buffers()]
    maps = features(torch.rand(2, 3, 64, 64))
    assert not maps["c2"].requires_grad
    assert maps["c3"].requires_grad
    trained = [p.requires_grad for p in body.parameters()]
    assert trained == sorted(trained)  # frozen first, then trained: no gap
    if name == "detnet_atto":
        assert torch.equal(before[0], next(iter(body.buffers())))  # the stem's running mean


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra_levels": "some"}, r"detector\.extra_levels='some': choose one of"),
        ({"stages": ["c2", "c9"]}, "c9 is not a stage"),
        ({"pooled_levels": ["p2", "p9"]}, "consecutive"),
        ({"freeze": "c8"}, "freeze='c8'"),
        ({"num_detections": 0}, r"detector\.num_detections=0"),
        (
            {"channels": 1e20},
            r"detector\.channels=1e\+20: give a positive whole number up to 1048576",
        ),
        ({"channels": 10**20}, rf"detector\.channels={10**20}: give a positive whole number up to"),
        ({"anchor_size": 2**20 + 1}, r"detector\.anchor_size=1048577: give"),
        ({"num_proposals_before_nms_test": True}, r"detector\.num_proposals_before_nms_test=True"),
        ({"box_head_channels": 0}, r"detector\.box_head_channels=0"),
        ({"score_threshold": float("nan")}, "between 0 and 1"),
        ({"score_threshold": 2.0}, "between 0 and 1"),
        ({"anchor_ratios": []}, "anchor_ratios"),
    ],
)
def test_a_wrong_detector_is_refused_by_field(change, message):
    with pytest.raises(ValueError, match=message):
        small(FasterRCNNSpec(**change))


def test_pooled_levels_are_a_field():
    spec = FasterRCNNSpec(pooled_levels=["p2", "p3", "p4", "p5"])
    assert small(spec).roi_heads.box_roi_pool.levels == ["p2", "p3", "p4", "p5"]
    assert small(spec).backbone.pyramid.levels == ["p2", "p3", "p4", "p5", "p6"]


def test_every_number_of_a_spec_reaches_the_detector():
    spec = FasterRCNNSpec(
        channels=16,
        box_head_channels=32,
        num_proposals_before_nms_train=91,
        num_proposals_before_nms_test=92,
        num_proposals_train=93,
        num_proposals_test=94,
        num_sampled_anchors=95,
        num_sampled_rois=96,
        num_detections=7,
        score_threshold=0.0,
    )
    model = small(spec)
    rpn = model.rpn
    assert (rpn.num_before_nms, rpn.num_after_nms, rpn.num_samples) == ((91, 92), (93, 94), 95)
    seen = []
    model.roi_heads.box_roi_pool.register_forward_pre_hook(lambda _, x: seen.append(x[1].shape[1]))
    model(batch())
    with torch.no_grad():
        found = model.eval()(batch())
    assert seen == [96, 94]
    assert [len(image["boxes"]) for image in found] == [7, 7]
    spec = RetinaNetSpec(channels=16, num_candidates_per_level=98, num_detections=7)
    spec.score_threshold = 0.0
    with torch.no_grad():
        found = small(spec).eval()(batch())
    assert [len(image["boxes"]) for image in found] == [7, 7]


@pytest.mark.parametrize("name", DETECTORS)
def test_no_two_detections_of_a_class_overlap_beyond_the_threshold(name):
    torch.manual_seed(0)
    spec = narrow(name)
    spec.score_threshold, spec.nms_threshold = 0.0, 0.2
    model = small(spec).eval()
    with torch.no_grad():
        (found,) = model(collate(examples()[:1]))
    overlap = box_iou(found["boxes"], found["boxes"]).fill_diagonal_(0)
    same_class = found["labels"][:, None] == found["labels"]
    assert len(found["boxes"]) > 10
    assert overlap[same_class].max() <= 0.2 + 1e-4
