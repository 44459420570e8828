"""Classification: data and batches, timm's recipe, errors, and a run that is killed and goes on."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.utils import accuracy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import detnet
from ablations import rescore
from ablations.classification_protocol import (
    AugmentationConfig,
    AverageConfig,
    ClassificationProtocol,
    OptimizerConfig,
    ScheduleConfig,
)
from ablations.config import JobConfig, RunConfig, TimmBackbone
from ablations.data import DataError, GlyphClassesData, ImageFolderData, open_class_data
from ablations.data.glyph_classes import GlyphClassesDataset
from ablations.evaluation.classes import class_errors
from ablations.evaluation.paired import draw_counts
from ablations.record import read_record
from ablations.run import execute
from ablations.runtime import Runtime
from ablations.tasks.classification import ClassificationTask, train_transform
from ablations.training import loop
from ablations.training.optimizer import average_of, optimizer_of, schedule_of

CPU = torch.device("cpu")
GLYPHS = GlyphClassesData(num_train=24, num_val=12, image_size=32, min_size=0.3)
HEAVY = AugmentationConfig(
    auto_augment="rand-m9-mstd0.5", re_prob=0.5, re_mode="pixel", mixup=0.2, cutmix=1.0
)


def protocol(**changes):
    values = {
        "name": "tiny",
        "image_size": 32,
        "batch_size": 8,
        "num_steps": 5,
        "augmentation": HEAVY,
        "optimizer": OptimizerConfig(name="adamw", learning_rate=0.01),
        "average": AverageConfig(decay=0.5),
    }
    return ClassificationProtocol(**(values | changes))


def config(runs="runs", **changes):
    values = {
        "task": "classify",
        "backbone": detnet.ZOO["detnet_atto"],
        "detector": None,
        "data": GLYPHS,
        "protocol": protocol(),
        "job": JobConfig(runs=str(runs), device="cpu", num_workers=0, num_sample_images=1),
    }
    return RunConfig(**(values | changes))


def image_folder(root, *, classes=("cat", "dog"), num=3, side=40):
    rng = np.random.default_rng(0)
    for split, name, k in itertools.product(("train", "val"), classes, range(num)):
        path = root / split / name / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(path)
    return ImageFolderData(root=str(root))


# --- data -----------------------------------------------------------------------------------


def test_a_glyph_of_each_class_is_drawn_in_turn_and_is_seen():
    plain = GlyphClassesData(num_train=6, clutter=0, categories=["ring", "square", "cross"])
    dataset = GlyphClassesDataset(plain, "train")
    assert [dataset.label(k) for k in range(6)] == [0, 1, 2, 0, 1, 2]
    for k in range(6):
        pixels = np.asarray(dataset.image(k)).astype(int)
        assert (np.abs(pixels - pixels[0, 0]).sum(axis=-1) > 30).mean() > 0.03
    assert dataset.image(3).tobytes() == dataset.image(3).tobytes() != dataset.image(0).tobytes()


def test_the_fingerprint_of_glyph_classes_sees_whatever_changes_an_image():
    def fingerprint(**changes):
        return GlyphClassesDataset(replace(GLYPHS, **changes), "train").fingerprint

    changed = [
        {"seed": 1}, {"num_train": 23}, {"image_size": 33}, {"clutter": 0.5},
        {"max_rotation": 10.0}, {"categories": ["ring", "B"]}, {"max_size": 0.6},
    ]  # fmt: skip
    assert len({fingerprint(), *(fingerprint(**each) for each in changed)}) == 8
    assert fingerprint(num_val=5) == fingerprint()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_size": 0.9}, "data.min_size=0.9: give a share of the image's side above 0, below"),
        ({"categories": ["ring"]}, "data.categories=.* give two or more"),
        ({"clutter": 9.0}, "data.clutter=9.0: give 0 to 4"),
    ],
)
def test_wrong_glyph_classes_are_refused_by_field_and_remedy(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(GLYPHS, **changes).check()


def test_an_image_folder_has_timms_classes_and_files(tmp_path):
    data = image_folder(tmp_path, classes=("a10", "a9", "b"))
    train, val = open_class_data(data)
    reference = timm.data.create_dataset("", root=str(tmp_path / "train"))
    assert train.classes == val.classes == ["a9", "a10", "b"]  # timm's natural order
    assert [train.label(k) for k in range(len(train))] == [label for _, label in reference]
    for k, (image, _) in enumerate(reference):
        assert train.image(k).tobytes() == image.tobytes()
    assert len(open_class_data(data, max_train_images=4)[0]) == 4


def test_an_image_folder_that_cannot_be_used_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"data\.root=.*is no folder; give data\.root=DIR"):
        open_class_data(ImageFolderData(root=str(tmp_path / "nowhere")))
    data = image_folder(tmp_path / "one", classes=("cat",))
    with pytest.raises(DataError, match="its images are of one class, 'cat'"):
        open_class_data(data)
    data = image_folder(tmp_path / "two")
    (tmp_path / "two" / "val" / "cat").rename(tmp_path / "two" / "val" / "cow")
    with pytest.raises(DataError, match="class 'cow' is not among the 2 of training"):
        open_class_data(data)
    data = image_folder(tmp_path / "broken")
    broken = tmp_path / "broken" / "train" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    train, _ = open_class_data(data)
    with pytest.raises(DataError, match=r"dog/1\.png: cannot be decoded"):
        [train.image(k) for k in range(len(train))]


def test_a_batch_depends_on_seed_and_step_alone(tmp_path):
    def batches(start, num, num_workers=0, seed=0):
        task = ClassificationTask.open(
            config(seed=seed, job=JobConfig(device="cpu", num_workers=num_workers))
        )
        return list(itertools.islice(task.train_batches(start, Runtime(CPU)), num))

    whole = batches(0, 4)
    torch.manual_seed(77)
    for one, other in zip(whole[2:], batches(2, 2, num_workers=1), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert one.image_ids == other.image_ids
    assert whole[0].images.dtype == torch.uint8
    assert not torch.equal(whole[0].images, batches(0, 1, seed=1)[0].images)


def test_without_augmentation_images_are_resized_and_cropped_at_the_center():
    transform = train_transform(
        protocol(augmentation=AugmentationConfig(no_aug=True)), (0.5, 0.5, 0.5)
    )
    image = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    assert np.array_equal(transform(image).permute(1, 2, 0).numpy(), np.asarray(image))


# --- errors ---------------------------------------------------------------------------------


def test_errors_are_what_timms_accuracy_leaves():
    logits = torch.randn(200, 9, generator=torch.manual_seed(0))
    labels = torch.randint(9, (200,), generator=torch.manual_seed(1))
    predictions = [
        {"image_id": k, "label": int(label), "top": row.topk(5).indices.tolist()}
        for k, (row, label) in enumerate(zip(logits, labels, strict=True))
    ]
    top1, top5 = (float(value) / 100 for value in accuracy(logits, labels, topk=(1, 5)))
    assert class_errors(predictions, 9) == {
        "top1_error": pytest.approx(1 - top1),
        "top5_error": pytest.approx(1 - top5),
    }


def test_of_five_classes_there_is_no_top5_error():
    predictions = [{"image_id": 1, "label": 0, "top": [1, 0, 2, 3, 4]}]
    assert class_errors(predictions, 5) == {"top1_error": 1.0, "top5_error": None}


# --- timm's recipe --------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    return detnet.create_from_spec(detnet.ZOO["detnet_atto"], num_classes=4)


def test_the_average_of_weights_is_torchs_exponential_moving_average():
    model = network()
    asked = protocol(average=AverageConfig(decay=0.9))
    average = average_of(model, asked)
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    reference.update_parameters(model)  # torch starts as the model at the first update
    for step in range(1, 6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(model, step + 1)
        reference.update_parameters(model)
    theirs = dict(reference.module.named_parameters())
    for name, parameter in average.module.named_parameters():
        assert torch.allclose(parameter, theirs[name], atol=1e-6), name
    assert average_of(model, protocol(average=AverageConfig())) is None


def test_the_schedule_is_torchs_cosine_and_its_milestones_are_multiplied():
    def rates(**schedule):
        asked = protocol(num_steps=10, schedule=ScheduleConfig(**schedule))
        optimizer = optimizer_of(network(), asked)
        set_rates = schedule_of(optimizer, asked)
        return [set_rates(step) for step in range(10)]

    parameter = torch.nn.Parameter(torch.ones(1))
    reference = torch.optim.AdamW([parameter], lr=0.01)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=10)
    expected = []
    for _ in range(10):
        expected.append(reference.param_groups[0]["lr"])
        reference.step()
        cosine.step()
    assert rates() == pytest.approx(expected)
    assert rates(name="multistep", milestones=[4, 8]) == pytest.approx(
        [0.01] * 4 + [0.001] * 4 + [0.0001] * 2
    )
    warm = rates(warmup_steps=4, warmup_learning_rate=0.002, name="constant")
    assert warm == pytest.approx([0.002, 0.004, 0.006, 0.008] + [0.01] * 6)


def test_layer_decay_trains_early_layers_at_lower_rates():
    optimizer = OptimizerConfig(name="sgd", learning_rate=0.1, layer_decay=0.5)
    asked = protocol(optimizer=optimizer, schedule=ScheduleConfig(name="constant"))
    made = optimizer_of(network(), asked)
    schedule_of(made, asked)(0)
    rates = sorted({group["lr"] for group in made.param_groups})
    assert len(rates) > 2
    assert rates[-1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, r"protocol\.num_steps=0: give a whole number at least 1"),
        ({"crop_pct": 1.5}, r"protocol\.crop_pct=1\.5: give a finite number above 0 and at most 1"),
        ({"loss": "hinge"}, r"protocol\.loss=hinge: give one of cross_entropy"),
        ({"batch_size": 7}, r"protocol\.batch_size=7: mixing takes pairs"),
        ({"optimizer": OptimizerConfig(name="adem")}, r"protocol\.optimizer\.name=adem: is no"),
        ({"schedule": ScheduleConfig(name="plateau")}, r"protocol\.schedule\.name=plateau: give"),
        ({"schedule": ScheduleConfig(milestones=[3])}, r"protocol\.schedule\.milestones=\[3\]"),
        ({"schedule": ScheduleConfig(name="step")}, r"protocol\.schedule\.decay_steps=None"),
        ({"average": AverageConfig(decay=1.5)}, r"protocol\.average\.decay=1\.5: give"),
        ({"augmentation": AugmentationConfig(hflip=2)}, r"protocol\.augmentation\.hflip=2: give"),
        ({"optimizer": OptimizerConfig(layer_decay=math.inf)}, r"protocol\.optimizer\.layer_decay"),
        ({"optimizer": OptimizerConfig(eps=math.nan)}, r"protocol\.optimizer\.eps=nan: give"),
        ({"optimizer": OptimizerConfig(betas=[0.9, math.nan])}, r"optimizer\.betas=\[0\.9, nan\]"),
        ({"augmentation": AugmentationConfig(ratio=[1, math.inf])}, r"ratio=\[1, inf\]: give"),
        ({"augmentation": AugmentationConfig(scale=[2, 1])}, r"augmentation\.scale=\[2, 1\]"),
    ],
)
def test_a_wrong_value_of_the_protocol_is_refused_by_field_and_remedy(changes, message):
    with pytest.raises(ValueError, match=message):
        protocol(**changes).check()


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
@pytest.mark.parametrize("augmentation", [HEAVY, AugmentationConfig()])
def test_every_loss_is_finite_and_trains(loss, augmentation):
    task = ClassificationTask.open(
        config(protocol=protocol(loss=loss, smoothing=0.1, augmentation=augmentation))
    )
    model = task.build_model()
    losses = task.losses(model, next(task.train_batches(0, Runtime(CPU))), CPU)
    losses["loss_classifier"].backward()
    assert torch.isfinite(losses["loss_classifier"])
    assert model.fc.weight.grad.abs().sum() > 0


def test_the_loss_without_mixing_is_torchs_cross_entropy():
    task = ClassificationTask.open(
        config(protocol=protocol(smoothing=0.1, augmentation=AugmentationConfig()))
    )
    model = task.build_model().eval()
    batch = next(task.train_batches(0, Runtime(CPU)))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in timm.data.resolve_data_config(
        {}, model=model
    ).values() if isinstance(v, tuple) and len(v) == 3 and max(v) < 1)  # fmt: skip
    logits = model((batch.images / 255 - mean) / std)
    expected = torch.nn.functional.cross_entropy(logits, batch.labels, label_smoothing=0.1)
    assert torch.allclose(task.losses(model, batch, CPU)["loss_classifier"], expected, atol=1e-5)


# --- runs -----------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kill_at", [0, 2, 4])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, kill_at):
    """With mixing, erasing, AdamW and an average of weights, to the bit."""

    class KilledTask(ClassificationTask):
        def train_batches(self, start_step, runtime):
            for step, batch in enumerate(super().train_batches(start_step, runtime), start_step):
                if step == kill_at:
                    raise Killed
                yield batch

    def fit(kind, folder):
        task = kind.open(config())
        torch.manual_seed(0)
        model = task.build_model()
        loop.fit(
            task, model, task.config.protocol, folder, seed=0, runtime=Runtime(CPU),
            checkpoint_seconds=0.0,
        )  # fmt: skip
        return model.state_dict()

    whole = fit(ClassificationTask, tmp_path / "whole")
    with pytest.raises(Killed):
        fit(KilledTask, tmp_path / "killed")
    resumed = fit(ClassificationTask, tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    curves = [(tmp_path / name / "curve.jsonl").read_text() for name in ("whole", "killed")]
    assert curves[0] == curves[1]
    assert [json.loads(line)["step"] for line in curves[0].splitlines()] == list(range(5))
    finished = fit(ClassificationTask, tmp_path / "killed")  # nothing is left to train
    assert all(torch.equal(whole[name], finished[name]) for name in whole)


def test_a_run_leaves_errors_predictions_and_the_averaged_weights(tmp_path):
    outcome = execute(config(tmp_path), "atto")
    assert outcome.status == "done", outcome.error
    folder = next(tmp_path.glob("atto-*/seed0"))
    record = read_record(folder / "record.json")
    assert set(record.metrics) == {"top1_error", "top5_error"}
    assert record.data["num_val"] == 12
    model = timm.create_model(
        "detnet_atto", num_classes=10, checkpoint_path=str(folder / "weights.safetensors")
    )
    task = ClassificationTask.open(config(tmp_path))
    predictions, _ = loop.predict(
        task, model, task.config.protocol, num_images=12, runtime=Runtime(CPU)
    )
    assert class_errors(predictions, 10) == record.metrics
    assert rescore.main([str(folder)]) == 0
    assert rescore.main(["--predict", "--device", "cpu", str(folder)]) == 0
    assert read_record(folder / "record.json").metrics == record.metrics


def test_any_timm_network_is_trained_on_an_image_folder(tmp_path):
    data = image_folder(tmp_path / "images")
    asked = config(
        tmp_path / "runs",
        backbone=TimmBackbone(name="test_resnet"),
        data=data,
        protocol=protocol(augmentation=AugmentationConfig(), num_steps=2),
    )
    outcome = execute(asked, "test_resnet")
    assert outcome.status == "done", outcome.error
    weights = f"{outcome.folder}/weights.safetensors"
    timm.create_model("test_resnet", num_classes=2, checkpoint_path=weights)


def test_the_draws_of_a_classification_are_means_over_drawn_images(tmp_path):
    task = ClassificationTask.open(config(tmp_path))
    rng = np.random.default_rng(0)
    predictions = [
        {"image_id": index + 1, "label": 0, "top": [int(label)]}
        for index, label in enumerate(rng.integers(0, 2, 30))
    ]
    wrong = np.array([prediction["top"] != [0] for prediction in predictions])
    draws = task.draw(predictions, "top1_error", 50)
    counts = draw_counts(0, 30, 50)
    brute = [wrong.repeat(counts[:, draw]).mean() for draw in range(51)]
    assert draws.values == pytest.approx(brute)
    assert draws.values[0] == wrong.mean()
    assert (draws.num_images, draws.num_images_with_objects) == (30, 30)
