import pytest
import timm
import torch
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
)

SHORT_SIDE, LONG_SIDE = 128, 160


def images_and_targets(with_masks=False, num_objects=4):
    generator = torch.Generator().manual_seed(3)
    images, targets = [], []
    for height, width in ((100, 130), (120, 90)):
        images.append(torch.rand(3, height, width, generator=generator))
        corner = torch.rand(num_objects, 2, generator=generator) * 50
        size = torch.rand(num_objects, 2, generator=generator) * 30 + 8
        boxes = torch.cat([corner, corner + size], dim=1)
        target = {"boxes": boxes, "labels": torch.arange(num_objects) % 3 + 1}
        if with_masks:
            target["masks"] = torch.zeros(num_objects, height, width, dtype=torch.uint8)
            for mask, (x1, y1, x2, y2) in zip(target["masks"], boxes.int().tolist(), strict=True):
                mask[y1:y2, x1:x2] = 1
        targets.append(target)
    return images, targets


def narrow(name):
    """A detector of few channels."""
    heads = {"faster_rcnn": ("box",), "mask_rcnn": ("box", "mask"), "retinanet": ()}[name]
    return DETECTORS[name](channels=16, **{f"{head}_head_channels": 32 for head in heads})


def small(spec, name="detnet_atto", num_classes=3, **options):
    body = timm.create_model(name, features_only=True, **options)
    return spec.build(body, num_classes, short_side=SHORT_SIDE, long_side=LONG_SIDE)


def copy_of(theirs, spec):
    """Our detector with torchvision's weights; its body is our ResNet-50, stride on the 3x3."""
    body = timm.create_model("detnet_resnet50", stride_on="3x3", features_only=True)
    ours = spec.build(body, 3, short_side=SHORT_SIDE, long_side=LONG_SIDE)
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


@pytest.mark.parametrize(
    ("build", "spec"),
    [
        (fasterrcnn_resnet50_fpn, FasterRCNNSpec()),
        (maskrcnn_resnet50_fpn, MaskRCNNSpec()),
        (
            retinanet_resnet50_fpn,
            RetinaNetSpec(
                num_detections=300,  # torchvision's default
                score_threshold=0.005,  # below the prior of 0.01, so that there are detections
            ),
        ),
    ],
    ids=["faster_rcnn", "mask_rcnn", "retinanet"],
)
def test_with_torchvisions_weights_losses_and_detections_are_torchvisions(build, spec):
    torch.manual_seed(0)
    theirs = build(
        weights=None, weights_backbone=None, num_classes=4,
        min_size=SHORT_SIDE, max_size=LONG_SIDE,
        **({} if isinstance(spec, FasterRCNNSpec) else {"score_thresh": spec.score_threshold}),
    )  # fmt: skip
    ours = copy_of(theirs, spec)
    images, targets = images_and_targets(with_masks=spec.has_masks)
    losses = []
    for model in (theirs, ours):
        torch.manual_seed(1)  # the same sampling of anchors and RoIs
        losses.append(model(images, targets))
    assert {k: v.item() for k, v in losses[1].items()} == {
        k: v.item() for k, v in losses[0].items()
    }
    for model in (theirs, ours):
        model.eval()
    with torch.no_grad():
        for expected, found in zip(theirs(images), ours(images), strict=True):
            assert len(expected["boxes"]) > 0
            for name in expected:
                assert torch.equal(found[name], expected[name]), name


def test_on_a_stride_plateau_every_pooled_level_gets_rois_and_gradient():
    torch.manual_seed(0)
    model = small(FasterRCNNSpec())
    pool = model.roi_heads.box_roi_pool
    assert pool.levels == ["p2", "p3", "p4", "p5", "p6"]
    boxes = [torch.tensor([[0.0, 0, s, s] for s in (60, 130, 250, 460, 900)])]
    maps = model.backbone(torch.rand(1, 3, 1024, 1024))
    pooled = pool(maps, boxes, [(1024, 1024)])
    assert sorted(pool.assign(boxes[0]).tolist()) == [0, 1, 2, 3, 4]
    gradients = torch.autograd.grad(pooled.sum(), list(maps.values()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_parameter_of_a_detnet_detector_trains(name):
    torch.manual_seed(0)
    spec = narrow(name)
    model = small(spec)
    images, targets = images_and_targets(with_masks=True)
    sum(model(images, targets).values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("name", DETECTORS)
def test_mixed_precision_gives_nearly_the_same_losses(name):
    torch.manual_seed(0)
    spec = narrow(name)
    model = small(spec)
    images, targets = images_and_targets(with_masks=True)
    losses = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(sum(model(images, targets).values()).item())
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
            lambda _, inputs: seen.extend(boxes.dtype for boxes in inputs[1])
        )
    images, _ = images_and_targets()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = model(images)
    assert len(outputs[0]["boxes"]) > 0
    dtypes = {value.dtype for output in outputs for value in output.values()} | set(seen)
    assert dtypes == {torch.float32, torch.int64}


def test_an_image_without_objects_trains():
    model = small(FasterRCNNSpec(channels=16, box_head_channels=32))
    images, targets = images_and_targets(num_objects=0)
    losses = model(images, targets)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_images_are_resized_by_both_sides_and_padded_at_the_bottom_right():
    model = small(FasterRCNNSpec())
    batch, _ = model.transform([torch.ones(3, 100, 130), torch.ones(3, 30, 120)])
    # 100 x 130 -> short side 128 would make 166 > 160, so the long side decides: 123 x 160
    assert batch.image_sizes == [(123, 160), (40, 160)]
    assert batch.tensors.shape == (2, 3, 128, 160)
    assert (batch.tensors[1, :, :40] != 0).all()
    assert (batch.tensors[1, :, 40:] == 0).all()


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "regnetx_002"])
def test_any_hierarchical_timm_network_serves_as_backbone(name):
    model = small(FasterRCNNSpec(channels=16, box_head_channels=32), name).eval()
    images, _ = images_and_targets()
    assert model.backbone.pyramid.levels == ["p2", "p3", "p4", "p5", "p6"]
    assert model.roi_heads.box_roi_pool.levels == ["p2", "p3", "p4", "p5"]
    with torch.no_grad():
        assert len(model(images)) == 2


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
    numbers = {
        "num_proposals_before_nms_train": 91,
        "num_proposals_before_nms_test": 92,
        "num_proposals_train": 93,
        "num_proposals_test": 94,
        "num_sampled_anchors": 95,
        "num_sampled_rois": 96,
        "num_detections": 97,
        "score_threshold": 0.125,
        "nms_threshold": 0.375,
    }
    model = small(FasterRCNNSpec(channels=16, box_head_channels=32, **numbers))
    rpn, heads = model.rpn, model.roi_heads
    assert numbers == {
        "num_proposals_before_nms_train": rpn.train().pre_nms_top_n(),
        "num_proposals_train": rpn.post_nms_top_n(),
        "num_proposals_before_nms_test": rpn.eval().pre_nms_top_n(),
        "num_proposals_test": rpn.post_nms_top_n(),
        "num_sampled_anchors": rpn.fg_bg_sampler.batch_size_per_image,
        "num_sampled_rois": heads.fg_bg_sampler.batch_size_per_image,
        "num_detections": heads.detections_per_img,
        "score_threshold": heads.score_thresh,
        "nms_threshold": heads.nms_thresh,
    }
    model = small(
        RetinaNetSpec(
            channels=16,
            num_candidates_per_level=98,
            num_detections=97,
            score_threshold=0.125,
            nms_threshold=0.375,
        )
    )
    assert (model.topk_candidates, model.detections_per_img) == (98, 97)
    assert (model.score_thresh, model.nms_thresh) == (0.125, 0.375)


@pytest.mark.parametrize("name", DETECTORS)
def test_no_two_detections_of_a_class_overlap_beyond_the_threshold(name):
    torch.manual_seed(0)
    spec = narrow(name)
    spec.score_threshold, spec.nms_threshold = 0.0, 0.2
    model = small(spec).eval()
    with torch.no_grad():
        (found,) = model(images_and_targets()[0][:1])
    overlap = box_iou(found["boxes"], found["boxes"]).fill_diagonal_(0)
    same_class = found["labels"][:, None] == found["labels"]
    assert len(found["boxes"]) > 10
    assert overlap[same_class].max() <= 0.2 + 1e-4
