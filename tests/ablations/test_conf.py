"""Every file in conf/ composes, every table's variants are checked specs, and typos are refused."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

import detnet
from ablations.classification_protocol import ClassificationProtocol
from ablations.config import (
    ConfigError,
    RunConfig,
    TimmBackbone,
    as_plain,
    from_plain,
    run_digest,
)
from ablations.data import GlyphClassesData
from ablations.sweep.compose import config_folder, plain_reason, run_config
from ablations.sweep.grid import Grid
from ablations.sweep.points import Point
from ablations.tasks.detection import build_model
from analysis.published import published
from detnet.cost import cost

ROOT = Path(__file__).resolve().parents[2]
DATA_OVERRIDES = {
    "glyphs": [],
    "glyphs_easy": [],
    "glyphs_medium": [],
    "coco": ["data.root=/data", "data.train=train.json", "data.val=val.json"],
    "coco2017": ["data.root=/data"],
    "voc": ["data.root=/data"],
    "glyph_classes": ["task=classify"],
    "glyph_classes_easy": ["task=classify"],
    "image_folder": ["task=classify", "data.root=/data"],
}
SHORT_NAMES = ("backbones", "projection", "dilation")
TABLES = sorted(
    path.stem for path in (ROOT / "conf" / "table").glob("*.yaml") if path.stem not in SHORT_NAMES
)


@pytest.fixture(autouse=True)
def _conf():
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        yield


def composed(*overrides: str) -> RunConfig:
    return run_config(compose("config", overrides=list(overrides)))


def names(group: str) -> list[str]:
    found = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
    assert found
    return found


def test_conf_holds_values_only():
    for path in (ROOT / "conf").rglob("*.yaml"):
        hydras_own = path.is_relative_to(ROOT / "conf" / "hydra")  # its plugins are so named
        assert hydras_own or "_target_" not in path.read_text(), path


@pytest.mark.parametrize("name", names("data"))
def test_every_kind_of_data_composes(name, monkeypatch):
    monkeypatch.setattr(Path, "is_dir", lambda _: True)
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    config = composed(f"data={name}", *DATA_OVERRIDES[name])
    assert from_plain(as_plain(config)) == config


@pytest.mark.parametrize("name", sorted({*names("detector")} - {"none"}))
def test_every_detector_builds(name):
    config = composed(
        "backbone=detnet_atto",
        f"detector={name}",
        "detector.channels=16",
        f"weights={__file__}",  # any file, which is not read here
    )
    assert from_plain(as_plain(config)) == config
    config.weights = "scratch"
    assert sum(p.numel() for p in build_model(config, 3).parameters()) > 0


@pytest.mark.parametrize("name", names("protocol"))
def test_every_protocol_composes_under_its_own_name(name):
    task = "classify" if name.startswith("classify_") else "detect"
    config = composed(f"task={task}", f"protocol={name}")
    assert config.protocol.name == name
    assert from_plain(as_plain(config)) == config


def test_the_papers_setting_is_the_papers():
    """PAPER.md, "Training, detector"."""
    config = composed(
        "protocol=paper", "detector=faster_rcnn_paper", "backbone=detnet59",
        "backbone.norm=frozen_batch", f"weights={__file__}",
    )  # fmt: skip
    protocol, detector = config.protocol, config.detector
    assert (protocol.num_steps, protocol.milestones) == (180_000, [120_000, 160_000])
    assert (protocol.batch_size, protocol.learning_rate, protocol.momentum) == (16, 0.02, 0.9)
    assert protocol.learning_rate_batch == 8 * 2
    assert (protocol.optimizer, protocol.schedule) == ("sgd", "milestones")
    assert (protocol.warmup_steps, protocol.warmup_factor) == (500, 0.3)
    assert (list(protocol.short_side), protocol.long_side) == ([800], 1333)
    assert (protocol.weight_decay, protocol.gamma, protocol.flip) == (1e-4, 0.1, True)
    assert (detector.freeze, config.backbone.norm) == ("c1", "frozen_batch")
    assert (detector.num_proposals_before_nms_train, detector.num_proposals_train) == (12_000, 2000)
    assert (detector.num_proposals_before_nms_test, detector.num_proposals_test) == (6000, 1000)
    assert (detector.canonical_size, detector.anchor_size, detector.channels) == (224, 32, 256)


def test_the_1x_schedule_is_half_of_the_papers():
    half, whole = (composed(f"protocol={name}").protocol for name in ("paper_1x", "paper"))
    assert 2 * half.num_steps == whole.num_steps
    assert [2 * step for step in half.milestones] == whole.milestones
    half.num_steps, half.milestones, half.name = whole.num_steps, whole.milestones, whole.name
    assert half == whole


def test_the_paper_protocol_of_classification_is_resnexts():
    protocol = composed("task=classify", "protocol=classify_paper").protocol
    epoch = 1_281_167 / protocol.batch_size  # ImageNet's images
    assert protocol.batch_size == 256
    assert [round(m / epoch) for m in protocol.schedule.milestones] == [30, 60]
    assert round(protocol.num_steps / epoch) == 90
    assert (protocol.image_size, round(protocol.image_size / protocol.crop_pct)) == (224, 256)
    optimizer = protocol.optimizer
    assert (optimizer.name, optimizer.learning_rate) == ("sgd", 0.1)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)


def test_a_task_brings_its_data_and_protocol_and_has_its_own_kinds():
    config = composed("task=classify", "backbone=detnet59")
    assert (config.task, config.detector) == ("classify", None)
    assert isinstance(config.data, GlyphClassesData)
    assert isinstance(config.protocol, ClassificationProtocol)
    assert from_plain(as_plain(config)) == config
    for words, message in {
        "task=classify data=glyphs": "data=glyphs: is not for task=classify; give",
        "data=glyph_classes": "data=glyph_classes: is not for task=detect; give data=coco",
        "task=classify detector=retinanet": "task=classify has no detector",
        "detector=none": "task=detect needs a detector",
    }.items():
        with pytest.raises(ConfigError, match=message):
            composed(*words.split())
    for words, key in {
        "task=classify protocol=smoke": "short_side",
        "protocol=classify_smoke": "image_size",
    }.items():
        with pytest.raises(HydraException) as refusal:
            composed(*words.split())
        name = words.rpartition("=")[2]
        reason = plain_reason(refusal.value)
        assert reason.startswith(f"protocol={name}: Key '{key}' not in")
        assert "name a protocol of this task" in reason


DATA_SUMMARY = {"train_fingerprint": "t", "val_fingerprint": "v"}


def rows(table: str, *overrides: str) -> dict[str, RunConfig]:
    variants = compose("config", overrides=[f"+table={table}"]).table.variants
    return {row: composed(*overrides, *words) for row, words in variants.items()}


@pytest.fixture
def pretrained(tmp_path, monkeypatch):
    """What `conf/table/pretraining.yaml` starts from."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "pretraining"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"weights")


@pytest.mark.usefixtures("pretrained")
@pytest.mark.parametrize("table", TABLES)
def test_every_row_of_every_table_is_a_run_of_its_own(table):
    configs = rows(table, "backbone.depth_multiplier=0.2")
    digests = {run_digest(config, DATA_SUMMARY) for config in configs.values()}
    assert len(digests) == len(configs) > 1
    for config in configs.values():
        assert cost(config.backbone).macs > 0


@pytest.mark.usefixtures("pretrained")
@pytest.mark.parametrize("table", TABLES)
def test_every_table_runs_under_every_protocol(table):
    row, words = next(iter(compose("config", overrides=[f"+table={table}"]).table.variants.items()))
    for protocol in ("smoke", "cpu", "mini", "paper"):
        config = composed(f"protocol={protocol}", f"+table={table}", *words)
        assert (config.protocol.name, row in config.table.variants) == (protocol, True)


def test_a_network_that_stands_in_several_tables_is_one_run():
    baselines = {
        "table1_backbones": "detnet59",
        "table2_scratch": "detnet59",
        "table5_projection": "detnet59",
        "table6_dilation": "detnet59",
        "stage_count": "c5-c6",
        "dilation_rate": "dilation-2",
        "projection_place": "c5-and-c6",
        "output_stride": "stride-16",
        "extra_width": "width-256",
        "pooled_levels": "p2-p6",
    }
    digests = {run_digest(rows(table)[row], DATA_SUMMARY) for table, row in baselines.items()}
    assert len(digests) == 1


def test_the_papers_tables_name_their_published_rows():
    known = published()
    for number in range(1, 9):
        (table,) = [name for name in TABLES if name.startswith(f"table{number}_")]
        config = compose("config", overrides=[f"+table={table}"]).table
        assert (config.name, config.published) == (table, f"table{number}")
        named = set(known.variant[known.table == str(number)])
        assert set(config.variants) & named, table


@pytest.mark.parametrize("short", SHORT_NAMES)
def test_a_papers_table_answers_to_its_short_name(short):
    (long,) = [name for name in TABLES if re.fullmatch(rf"table\d_{short}", name)]
    assert compose("config", overrides=[f"+table={short}"]).table == (
        compose("config", overrides=[f"+table={long}"]).table
    )


def test_the_projection_can_stand_in_every_place():
    places = {
        row: [config.backbone.stages[stage].projection for stage in ("c5", "c6")]
        for row, config in rows("projection_place").items()
    }
    assert places == {
        "none": [False, False],
        "c5": [True, False],
        "c6": [False, True],
        "c5-and-c6": [True, True],
        "every-block": [True, True],
    }


@pytest.mark.parametrize("name", detnet.ZOO)
def test_the_zoo_is_the_backbone_group(name):
    config = composed(f"backbone={name}")
    assert config.backbone == detnet.ZOO[name]
    assert from_plain(as_plain(config)) == config


def test_overrides_speak_the_specs_words():
    spec = composed("backbone=detnet59", "backbone.stages.c6.projection=false").backbone
    assert spec.stages["c6"].projection is False
    spec = composed("backbone=detnet59", "~backbone.stages.c6").backbone
    assert list(spec.stages) == ["c2", "c3", "c4", "c5"]
    stage = "{c7: {depth: 2, width: 256, dilation: 2}}"
    spec = composed("backbone=detnet59", f"+backbone.stages={stage}").backbone
    assert list(spec.stages) == ["c2", "c3", "c4", "c5", "c6", "c7"]
    assert (spec.stages["c7"].depth, spec.stages["c7"].dilation) == (2, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.stages.c6.dialtion=1", "dialtion"),
        ("backbone.stages.c6.dilation=two", "two"),
        ("backbone=detnet60", "detnet60"),
        ("protocol.learning_rate=fast", "fast"),
        ("protcol=smoke", "protcol"),
        ("data.image_szie=3", "image_szie"),
        ("detector=yolo", "detector/yolo"),
        ("detector=retinanet detector.box_head_channels=9", "box_head_channels"),
        ("protocol.num_steps=0", "protocol.num_steps=0"),
        ("protocol.short_side=[900]", "protocol.short_side"),
        ("protocol.milestones=[5,3]", "protocol.milestones"),
        ("protocol.precision=int8", "protocol.precision"),
        ("job.device=tpu", "job.device"),
        ("seed=-1", "seed=-1"),
        ("+table=projection table.published=table9", "table.published=table9"),
        ("weights=nowhere.pth", "weights='nowhere.pth'"),
        ("weights=pretrained", "no weights are published"),
        ("detector.freeze=c1", "detector.freeze=c1 with weights=scratch"),
        ("backbone.stages.c6.depth=-1", "c6"),
        ("backbone.norm=layer", "norm"),
    ],
)
def test_a_wrong_override_is_refused_by_name(override, message):
    with pytest.raises((ValueError, HydraException, OmegaConfBaseException)) as refusal:
        composed(*override.split())
    assert message in f"{refusal.value} {refusal.value.__cause__}"


def test_any_timm_name_is_a_backbone_and_a_wrong_one_gets_a_hint():
    config = composed("backbone=timm", "backbone.name=resnet18")
    assert config.backbone == TimmBackbone(name="resnet18")
    assert from_plain(as_plain(config)) == config
    with pytest.raises(ConfigError, match=r"backbone\.name is not set"):
        composed("backbone=timm")
    with pytest.raises(ConfigError, match=r"no timm model: did you mean .*resnet18"):
        composed("backbone=timm", "backbone.name=resnet1")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["backbone=detnet59"], "detnet59"),
        (["backbone=detnet59", "seed=3", "protocol=mini"], "detnet59"),
        (["backbone=detnet59", "backbone.norm=group"], "detnet59,norm=group"),
        (["backbone=detnet59", "~backbone.stages.c6"], "detnet59,no-c6"),
        (["detector=retinanet"], "detnet17,detector=retinanet"),
        (["backbone=timm", "backbone.name=resnet18"], "resnet18"),
        (["backbone=detnet59", "backbone.stages.c6.dilation=2"], "detnet59"),
        (
            ["backbone=detnet59", "+backbone.stages={c7:{depth:2,width:256,dilation:2}}"],
            "detnet59,c7=2x256,c7.dilation=2",
        ),
        (["detector.pooled_levels=[p2,p3]"], "detnet17,pooled_levels=p2+p3"),
        (["variant=mine", "backbone=detnet59"], "mine"),
    ],
)  # fmt: skip
def test_a_variant_is_named_by_its_backbone_and_what_was_changed(overrides, name):
    assert Grid.of_hydra().compose(Point(tuple(overrides)))[1] == name


def test_the_digest_sees_what_decides_the_result_and_nothing_else(tmp_path):
    def digest(*overrides, train="t", val="v"):
        return run_digest(
            composed(*overrides), {"train_fingerprint": train, "val_fingerprint": val}
        )

    same = [
        digest("seed=4"), digest("variant=x"), digest("job.runs=elsewhere"),
        digest("job.num_workers=0"), digest("protocol.name=renamed"), digest("+table=small"),
        digest("protocol.decode=pillow"),
    ]  # fmt: skip
    assert set(same) == {digest()}
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"w")
    different = [
        digest("backbone=detnet59"), digest("backbone.stages.c6.projection=false"),
        digest("detector=retinanet"), digest("protocol.num_steps=9"), digest(train="other"),
        digest(val="other"), digest(f"weights={weights}"), digest("protocol.decode=cuda"),
    ]  # fmt: skip
    assert len({*different, digest()}) == 9
    before = digest(f"weights={weights}")
    weights.write_bytes(b"other weights")
    assert digest(f"weights={weights}") != before
