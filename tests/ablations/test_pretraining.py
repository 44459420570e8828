"""A detector that starts from a classification run: what it takes over, and what is refused."""

from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file

import detnet
from ablations.classification_protocol import ClassificationProtocol, OptimizerConfig
from ablations.config import JobConfig, ProtocolConfig, RunConfig
from ablations.data import GlyphClassesData, GlyphsData
from ablations.field_checks import ConfigError
from ablations.record import read_record, write_record
from ablations.run import execute, plan_run
from ablations.tasks.network import build_body
from detnet.detection import FasterRCNNSpec

CATEGORIES = ["ring", "square", "cross", "star", "E", "F"]


def backbone(name="detnet_atto", **fields):
    return detnet.ZOO[name].override(width_multiplier=0.125, **fields)


def job(runs):
    return JobConfig(runs=str(runs), device="cpu", num_workers=0, num_sample_images=1)


def pretraining(runs, **values):
    return RunConfig(
        **{
            "task": "classify",
            "backbone": backbone(),
            "detector": None,
            "data": GlyphClassesData(
                num_train=24, num_val=12, image_size=32, categories=CATEGORIES
            ),
            "protocol": ClassificationProtocol(
                name="tiny",
                image_size=32,
                batch_size=8,
                num_steps=3,
                optimizer=OptimizerConfig(learning_rate=0.01),
            ),
            "job": job(runs),
            **values,
        }
    )


def detection(runs, weights, **values):
    return RunConfig(
        **{
            "backbone": backbone(),
            "detector": FasterRCNNSpec(channels=8, box_head_channels=8, num_proposals_train=20),
            "data": GlyphsData(num_train=4, num_val=2, image_size=64, categories=CATEGORIES),
            "protocol": ProtocolConfig(
                name="tiny", short_side=[64], long_side=64, batch_size=2, num_steps=1
            ),
            "job": job(runs),
            "weights": str(weights),
            **values,
        }
    )


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The folder of a finished classification run."""
    runs = tmp_path_factory.mktemp("pretraining")
    outcome = execute(pretraining(runs), "detnet_atto")
    assert outcome.status == "done", outcome.error
    return runs / f"detnet_atto-{outcome.digest}" / "seed0"


def test_a_detector_starts_from_the_weights_of_a_classification_run(tmp_path, pretrained):
    body = build_body(detection(tmp_path, pretrained))
    weights = load_file(pretrained / "weights.safetensors")
    own = body.state_dict()
    assert own.keys() == {name for name in weights if not name.startswith("fc.")}
    assert all(torch.equal(own[name], weights[name]) for name in own)
    outcome = execute(detection(tmp_path, pretrained), "fine-tuned")
    assert outcome.status == "done", outcome.error


def test_the_weights_are_in_timms_form(pretrained):
    file = pretrained / "weights.safetensors"
    arguments = {"num_classes": len(CATEGORIES), "width_multiplier": 0.125}
    ours = timm.create_model(
        "detnet_atto", pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **arguments
    )
    theirs = timm.create_model("detnet_atto", checkpoint_path=str(file), **arguments)
    features = [model.eval().forward_features(torch.ones(1, 3, 32, 32)) for model in (ours, theirs)]
    assert torch.equal(*features)
    assert torch.equal(theirs.fc.weight, load_file(file)["fc.weight"])


def test_the_digest_of_a_detectors_run_depends_on_the_weights_content(tmp_path, pretrained):
    def digest(weights):
        return plan_run(detection(tmp_path, weights), "fine-tuned").digest

    copied = tmp_path / "copied" / "seed0"
    copied.mkdir(parents=True)
    for name in ("record.json", "weights.safetensors"):
        (copied / name).write_bytes((pretrained / name).read_bytes())
    assert digest(copied) == digest(pretrained) == digest(pretrained / "weights.safetensors")
    assert digest(pretrained) != digest("scratch")
    other = execute(replace(pretraining(tmp_path / "other"), seed=1), "detnet_atto")
    assert digest(other.folder) != digest(pretrained)


def test_dilation_is_put_into_a_pretrained_resnet_and_learned_in_fine_tuning_only(tmp_path):
    """The protocol of the paper's Table 6."""
    resnet = pretraining(tmp_path, backbone=backbone("detnet_resnet50"))
    outcome = execute(resnet, "detnet_resnet50")
    dilated = detection(tmp_path, outcome.folder, backbone=backbone("detnet_resnet50_dilated"))
    planned = plan_run(dilated, "detnet_resnet50_dilated")
    assert dilated.backbone.strides["c5"] == 16
    weights = load_file(f"{outcome.folder}/weights.safetensors")
    own = planned.task.build_model().backbone.features.body.state_dict()
    assert all(torch.equal(own[name], weights[name]) for name in own)


def test_each_backbone_starts_from_its_own_run_of_a_folder_of_runs(tmp_path):
    runs = tmp_path / "pretraining"
    folders = {}
    for name in ("detnet_resnet50", "detnet_atto"):
        for seed in (1, 0):
            config = replace(pretraining(runs, backbone=backbone(name)), seed=seed)
            folders[name, seed] = execute(config, name).folder

    def start(name):
        return plan_run(detection(tmp_path, runs, backbone=backbone(name)), "x").config.weights

    assert start("detnet_atto") == folders["detnet_atto", 0]
    assert start("detnet_resnet50") == folders["detnet_resnet50", 0]
    # dilation is learned in fine-tuning only: the paper's Table 6
    assert start("detnet_resnet50_dilated") == folders["detnet_resnet50", 0]
    with pytest.raises(ConfigError, match=r"has this backbone .there are: detnet_atto, detnet_res"):
        start("detnet17_noproj")
    execute(pretraining(runs, backbone=backbone("detnet_resnet50", output_stride=8)), "finer")
    with pytest.raises(ConfigError, match="detnet_resnet50 and finer both fit this backbone; give"):
        start("detnet_resnet50_dilated")


@pytest.mark.parametrize(
    ("backbone_name", "message"),
    [
        ("detnet17_noproj", r"layer5\.0\.downsample\.0\.weight"),
        ("detnet_resnet14", "is another architecture than this run's backbone"),
        ("detnet59", "give a run of this backbone"),
    ],
)
def test_a_run_of_another_architecture_is_refused(tmp_path, pretrained, backbone_name, message):
    with pytest.raises(ConfigError, match=message):
        plan_run(detection(tmp_path, pretrained, backbone=backbone(backbone_name)), "misfit")


def test_a_run_that_is_not_done_or_of_another_task_or_without_weights_is_refused(
    tmp_path, pretrained
):
    def refusal():
        with pytest.raises(ConfigError) as refused:
            plan_run(detection(tmp_path, folder), "refused")
        assert str(folder) in str(refused.value)
        return str(refused.value)

    folder = tmp_path / "seed0"
    folder.mkdir()
    assert "has no record.json; give the folder of one run" in refusal()
    record = read_record(pretrained / "record.json")
    write_record(folder, replace(record, status="running", env={"command": "python -m x"}))
    assert "is not done (running): the command that began it finishes it: python -m x" in refusal()
    write_record(folder, record)
    assert "has no weights.safetensors" in refusal()
    write_record(folder, replace(record, config={**record.config, "task": "detect"}))
    assert "is a run of task=detect; give one of task=classify" in refusal()
    (folder / "record.json").write_text("{}")
    assert "field 'config' is missing" in refusal()
