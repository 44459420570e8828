import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from pycocotools import mask as rle
from torch import nn

import detnet  # noqa: F401  (registers the zoo with timm)
from ablations.config import ProtocolConfig
from ablations.runtime import Runtime
from ablations.tasks.detection import DetectionTask, as_results
from ablations.tasks.task import Task
from ablations.training import loop
from ablations.training.losses import LAG, NonFiniteLossError
from detnet.detection import DETECTORS, collate

CPU = torch.device("cpu")


def protocol(**changes):
    values = {"name": "test", "num_steps": 6, "batch_size": 2, "warmup_steps": 2, "milestones": [4]}
    return ProtocolConfig(**(values | changes))


class Line(nn.Module):
    """y = a x with a random disturbance, as detectors draw random samples."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.ones(1))
        self.register_buffer("num_calls", torch.zeros(()))

    def forward(self, images, targets):
        self.num_calls += 1
        x = torch.stack([image.mean() for image in images])
        y = torch.stack([target["boxes"].mean() for target in targets])
        return {"loss_line": ((self.slope * x - y + 0.1 * torch.rand(len(x))) ** 2).mean()}


def batches_from(start):
    for step in itertools.count(start):
        random = np.random.default_rng(step)
        images = [torch.from_numpy(random.integers(0, 255, (3, 4, 4), np.uint8)) for _ in range(2)]
        targets = [
            {"image_id": 10 * step + k, "boxes": torch.full((1, 4), float(k))} for k in range(2)
        ]
        yield images, targets


class LineTask(Task):
    """Learns the line from batches that a test hands over; it is never scored."""

    def __init__(self, batches):
        self.batches = batches

    def train_batches(self, start_step, runtime):
        return self.batches(start_step)

    def image_ids(self, batch):
        return [target["image_id"] for target in batch[1]]

    def losses(self, model, batch, device):
        images, targets = batch
        return model([image.float() / 255 for image in images], targets)

    build_model = val_batches = predict = score = draw = data_summary = None
    leave_validation_data = leave_weights = None


def fit(folder, batches=batches_from, model=None, runtime=None, checkpoint_seconds=0.0, **changes):
    model = Line() if model is None else model
    loop.fit(
        LineTask(batches), model, protocol(**changes), folder, seed=5,
        runtime=runtime or Runtime(CPU), checkpoint_seconds=checkpoint_seconds,
    )  # fmt: skip
    return model


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kill_at", range(6))
def test_training_killed_at_any_step_and_started_again_ends_the_same(tmp_path, kill_at):
    whole = fit(tmp_path / "whole")

    def killed_from(start):
        for step, batch in enumerate(batches_from(start), start):
            if step == kill_at:
                raise Killed
            yield batch

    with pytest.raises(Killed):
        fit(tmp_path / "cut", killed_from)
    resumed = fit(tmp_path / "cut")
    assert torch.equal(resumed.slope, whole.slope)
    assert torch.equal(resumed.num_calls, whole.num_calls)
    curves = [(tmp_path / name / "curve.jsonl").read_text() for name in ("whole", "cut")]
    assert curves[0] == curves[1]
    assert [json.loads(line)["step"] for line in curves[0].splitlines()] == list(range(6))


def test_training_killed_while_a_checkpoint_is_written_goes_on_from_the_last_whole_one(
    tmp_path, monkeypatch
):
    whole = fit(tmp_path / "whole")
    save, calls = torch.save, itertools.count()

    def cut_short(content, file):
        if next(calls) == 3:
            file.write(b"half a checkpo")
            raise Killed
        save(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", cut_short)
        with pytest.raises(Killed):
            fit(tmp_path / "cut")
    assert torch.equal(fit(tmp_path / "cut").slope, whole.slope)


def test_a_finished_training_is_not_trained_further(tmp_path):
    first = fit(tmp_path)
    again = fit(tmp_path)
    assert torch.equal(first.num_calls, again.num_calls)


def test_a_line_of_the_curve_cut_by_a_kill_is_dropped(tmp_path):
    fit(tmp_path, num_steps=3)
    path = tmp_path / "curve.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 2, "lo')
    fit(tmp_path, num_steps=3)
    assert path.read_text() == whole


def test_seed_decides_the_random_numbers_of_a_step():
    draws = {}
    for seed, step in [(0, 0), (0, 1), (1, 0), (0, 0)]:
        loop.seed_step(seed, step)
        draws.setdefault((seed, step), []).append(torch.rand(1).item())
    assert draws[0, 0][0] == draws[0, 0][1]
    assert len({values[0] for values in draws.values()}) == 3


def spoilt_from(spoilt_step):
    def batches(start):
        for step, (images, targets) in enumerate(batches_from(start), start):
            if step == spoilt_step:
                targets[0]["boxes"] = torch.full((1, 4), float("nan"))
            yield images, targets

    return batches


def test_a_non_finite_loss_is_refused_with_step_losses_and_images(tmp_path):
    with pytest.raises(NonFiniteLossError, match=r"step 2: .*loss_line nan.* images 20, 21"):
        fit(tmp_path, spoilt_from(2))


def test_a_non_finite_loss_is_refused_a_few_steps_later_at_most(tmp_path):
    taken = []

    def counted(start):
        for step, batch in enumerate(spoilt_from(2)(start), start):
            taken.append(step)
            yield batch

    with pytest.raises(NonFiniteLossError, match="step 2:"):
        fit(tmp_path, counted, checkpoint_seconds=1e9, num_steps=100)
    assert taken[-1] == 2 + LAG


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("step", value) for value in ("2", math.nan, 2.0, -1, 10**6, None, True)),
        *(("seconds", value) for value in ("1", math.nan, -1.0, math.inf, None)),
        *(("peak_memory", value) for value in ("1", math.nan, -1)),
        *(("model", value) for value in ([], {"weight": 1})),
    ],
)
def test_a_checkpoint_whose_fields_cannot_be_is_set_aside(tmp_path, caplog, field, value):
    whole = fit(tmp_path)
    path = tmp_path / "checkpoint.pt"
    torch.save(torch.load(path, weights_only=True) | {field: value}, path)
    again = fit(tmp_path)
    assert f"{path}: its {field} " in caplog.text
    assert "set aside as checkpoint.pt.set-aside-1" in caplog.text
    assert all(map(torch.equal, whole.parameters(), again.parameters()))


def _spoil_groups(optimizer):
    optimizer["param_groups"][0]["betas"] = "none"


def _spoil_shape(optimizer):
    optimizer["state"][0]["exp_avg"] = torch.zeros(7)


@pytest.mark.parametrize("spoil", [dict.clear, _spoil_groups, _spoil_shape])
def test_a_checkpoint_whose_optimizer_cannot_go_on_is_set_aside(tmp_path, caplog, spoil):
    def cut(start):
        for step, batch in enumerate(batches_from(start), start):
            if step == 2:
                raise Killed
            yield batch

    with pytest.raises(Killed):
        fit(tmp_path, cut, optimizer="adamw")
    path = tmp_path / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    spoil(content["optimizer"])
    torch.save(content, path)
    again = fit(tmp_path, optimizer="adamw")
    assert f"{path}: its optimizer " in caplog.text
    assert "set aside as checkpoint.pt.set-aside-1" in caplog.text
    whole = fit(tmp_path / "whole", optimizer="adamw")
    assert all(map(torch.equal, whole.parameters(), again.parameters()))


def test_no_checkpoint_is_written_after_a_non_finite_loss(tmp_path):
    with pytest.raises(NonFiniteLossError):
        fit(tmp_path, spoilt_from(2))  # a checkpoint at every step
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert content["step"] == 2
    assert content["model"]["slope"].isfinite().all()


def test_clipping_bounds_the_step(tmp_path):
    free = fit(tmp_path / "free", num_steps=1, warmup_steps=0, learning_rate=1.0, weight_decay=0.0)
    clipped = fit(
        tmp_path / "clipped", num_steps=1, warmup_steps=0, learning_rate=1.0, weight_decay=0.0,
        clip_norm=1e-3,
    )  # fmt: skip
    assert abs(free.slope.item() - 1) > 2e-3
    assert abs(clipped.slope.item() - 1) == pytest.approx(1e-3, rel=1e-2)


def test_results_are_cocos_boxes_and_masks():
    mask = torch.zeros(2, 1, 6, 8)
    mask[0, 0, 1:4, 2:7] = 0.9
    mask[1, 0, 0, 0] = 0.5  # at the threshold: outside
    output = {
        "boxes": torch.tensor([[2.0, 1.0, 7.0, 4.0], [0.123456, 0, 1, 1]]),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor([0.75, 0.1234567]),
        "masks": mask,
    }
    first, second = as_results(output, image_id=9, category_ids=[5, 7])
    assert (first["image_id"], first["category_id"], first["score"]) == (9, 7, 0.75)
    assert first["bbox"] == [2, 1, 5, 3]
    assert np.array_equal(rle.decode(first["segmentation"]), mask[0, 0].numpy() > 0.5)
    assert second["bbox"][0] == 0.12
    assert second["score"] == 0.123457
    assert rle.area(second["segmentation"]) == 0
    assert json.loads(json.dumps(first)) == first


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
def test_predictions_are_those_of_the_model(name):
    torch.manual_seed(0)
    spec = DETECTORS[name](channels=16, box_head_channels=32, score_threshold=0.0)
    body = timm.create_model("detnet_atto", features_only=True)
    model = spec.build(body, 2)
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    images = [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8) for _ in range(3)]
    examples = [(image, none | {"image_id": k}) for k, image in enumerate(images)]
    batches = [collate(examples[:2]), collate(examples[2:])]

    class ThreeImages(DetectionTask):
        def val_batches(self, runtime):
            return batches

    val = SimpleNamespace(categories=[{"id": 11}, {"id": 12}])
    task = ThreeImages(config=None, train=None, val=val)
    found, _ = loop.predict(task, model, protocol(), num_images=3, runtime=Runtime(CPU))
    assert {d["image_id"] for d in found} == {0, 1, 2}
    assert {d["category_id"] for d in found} <= {11, 12}
    with torch.no_grad():
        expected = model.eval()(collate(examples[1:2]))[0]
    assert [d["score"] for d in found if d["image_id"] == 1] == pytest.approx(
        expected["scores"].tolist(), abs=1e-6
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_what_the_model_computes_in(precision, tmp_path):
    class Watching(Line):
        def forward(self, images, targets):
            self.dtype = nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype
            return super().forward(images, targets)

    model = fit(tmp_path, model=Watching(), precision=precision, num_steps=1)
    assert model.dtype == getattr(torch, precision)
    assert model.slope.dtype == torch.float32
