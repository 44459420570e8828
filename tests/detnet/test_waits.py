"""A training step reads nothing from the device, and its dense part compiles as one graph."""

import pytest
import timm
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import detnet  # noqa: F401  (registers the zoo with timm)
from detnet.detection import DETECTORS, collate
from detnet.detection.nms import HAS_TRITON

SIZE = 96


def detector(name):
    torch.manual_seed(0)
    heads = {"faster_rcnn": ("box",), "mask_rcnn": ("box", "mask"), "retinanet": ()}[name]
    spec = DETECTORS[name](channels=16, **{f"{head}_head_channels": 16 for head in heads})
    return spec.build(timm.create_model("detnet_atto", features_only=True), 3)


def batch(num_objects=(3, 0)):
    examples = []
    for num in num_objects:
        boxes = torch.tensor([[10.0, 20, 50, 70]]).repeat(num, 1)
        target = {
            "boxes": boxes,
            "labels": torch.ones(num, dtype=torch.int64),
            "masks": torch.ones(num, SIZE, SIZE, dtype=torch.uint8),
            "ignored_boxes": torch.tensor([[60.0, 60, 90, 90]]),
        }
        examples.append((torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), target))
    return collate(examples)


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: bool((x > 0).any()), "_local_scalar_dense"),
        (lambda x: torch.where(x > 0)[0], "nonzero"),
        (lambda x: x[x > 0], "boolean index"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.cpu(), "cpu"),
        (lambda x: x.new_tensor([1.0, 2.0]), "new_tensor"),
    ],
)
def test_what_waits_is_counted(waits, wait, name):
    with waits.counted() as counts:
        wait(torch.arange(4.0))
    assert counts[name] == 1


@pytest.mark.parametrize("name", DETECTORS)
def test_a_training_step_waits_for_nothing(waits, name):
    model = detector(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    given = batch()

    def step():
        torch.stack(list(model(given).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()

    with waits.as_on_gpu():
        step()  # what is made once for each shape
        with waits.counted() as counts:
            step()
    without_triton = {} if HAS_TRITON or name == "retinanet" else {"kept_by_nms": 1}
    assert counts == without_triton


@pytest.mark.parametrize("name", DETECTORS)
def test_no_shape_depends_on_what_is_found(name):
    """Without values: what would ask for one raises, as does what leaves the device."""
    model, given = detector(name), batch()
    with FakeTensorMode(allow_non_fake_inputs=True):

        def on_gpu(tensor):
            return torch.empty_like(tensor, device="cuda", requires_grad=tensor.requires_grad)

        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for key, tensor in tensors.items():
                    if tensor is not None:
                        tensors[key] = on_gpu(tensor)
        losses = model(given.to(torch.device("cuda")))
    assert losses
    assert all(loss.device.type == "cuda" and loss.ndim == 0 for loss in losses.values())


@pytest.mark.parametrize("name", DETECTORS)
def test_maps_and_head_outputs_are_one_graph(name):
    model = detector(name)
    given = batch()
    dense = torch.compile(model.dense, fullgraph=True, backend="aot_eager")
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found, expected = (run(given.images, given.sizes)[0] for run in (dense, model.dense))
        assert found.keys() == expected.keys()
        # batch norm's running statistics decide nothing in training mode
        assert all(
            torch.allclose(found[k], expected[k], atol=1e-2 if autocast else 1e-4) for k in found
        )
