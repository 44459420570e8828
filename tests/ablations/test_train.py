"""The training command as a user meets it: runs, resumption after a kill, sweeps, failures."""

import gzip
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import TINY, Forked, run_module, train, train_words
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ablations.record import read_runs, read_tables

NAMES = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
         "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"]  # fmt: skip
# Long enough to find something, so that equal metrics say something
MASKS = [
    "detector=mask_rcnn_light",
    "detector.mask_head_channels=16",
    "detector.score_threshold=0.0",
    "protocol.num_steps=60",
    "protocol.max_val_images=12",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One finished run with masks: (runs folder, the run, what the command printed)."""
    runs = tmp_path_factory.mktemp("runs")
    done = train(runs, *MASKS)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = read_runs(runs)
    return runs, run, done.stdout


def coco_eval(run, kind):
    truth = COCO()
    truth.dataset = run.truth()
    truth.createIndex()
    detections = run.detections()
    if kind == "segm":
        for detection in detections:
            del detection["bbox"]  # or pycocotools takes the box's area for the mask's
    evaluator = COCOeval(truth, truth.loadRes(detections), kind)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return [None if value == -1 else value for value in evaluator.stats]


@pytest.mark.parametrize(("kind", "prefix"), [("bbox", ""), ("segm", "mask_")])
def test_the_record_holds_pycocotools_metrics(whole, kind, prefix):
    _, run, _ = whole
    metrics = run.record.metrics
    for name, expected in zip(NAMES, coco_eval(run, kind), strict=True):
        assert metrics[prefix + name] == (expected and pytest.approx(expected, abs=1e-12)), name
    assert metrics["AR100"] > 0


def test_the_record_says_what_was_run_on_what(whole):
    _, run, printed = whole
    record = run.record
    assert (record.status, record.error, record.seed) == ("done", None, 0)
    assert record.config["protocol"]["num_steps"] == 60
    assert (record.data["num_train"], record.data["num_val"]) == (12, 12)
    assert record.cost["params"] == sum(stage["params"] for stage in record.cost["stages"].values())
    assert record.timing["train_images_per_second"] > 0
    assert record.timing["peak_memory_bytes"] > 1e8
    assert record.env["torch"] == torch.__version__.partition("+")[0]
    assert "ablations.train" in record.env["command"]
    assert len(run.curve()) == 60
    assert {"step", "learning_rate", "loss", "loss_mask"} <= set(run.curve()[0])
    assert "ETA" in printed
    assert "images/s" in printed
    assert len(list((run.validation_folder / "images").glob("*.png"))) == 8


def test_a_second_call_trains_nothing_and_says_so(whole):
    runs, run, _ = whole
    before = (run.folder / "record.json").stat().st_mtime_ns
    again = train(runs, *MASKS, "variant=another_name")
    assert again.returncode == 0
    assert "is done already" in again.stdout
    assert "train " not in again.stdout
    assert (run.folder / "record.json").stat().st_mtime_ns == before
    assert len(read_runs(runs)) == 1


def test_truth_that_is_damaged_is_written_anew_by_a_second_call(whole):
    runs, run, _ = whole
    truth, path = run.truth(), run.truth_path
    file = path.read_bytes()
    flipped = bytearray(file)
    flipped[len(file) // 2] ^= 255
    for damaged in (file[:-20], b"", b"{}", bytes(flipped), gzip.compress(b"{}")):
        path.write_bytes(damaged)
        again = train(runs, *MASKS)
        assert again.returncode == 0, again.stdout + again.stderr
        assert "is done already" in again.stdout
        assert f"{path}: " in again.stdout
        assert "is written anew" in again.stdout
        assert run.truth() == truth
    path.unlink()
    assert "is written anew" not in train(runs, *MASKS).stdout
    assert run.truth() == truth


def test_scoring_stored_detections_again_gives_the_same_metrics(whole):
    _, run, _ = whole
    again = run_module("ablations.rescore", str(run.folder))
    assert again.returncode == 0, again.stderr
    assert read_runs(run.folder.parents[1])[0].record == run.record


def test_predicting_again_from_the_checkpoint_gives_the_same_detections(whole):
    _, run, _ = whole
    before = run.detections()
    again = run_module("ablations.rescore", "--predict", "--device", "cpu", str(run.folder))
    assert again.returncode == 0, again.stderr
    assert run.detections() == before


def weights(run):
    return torch.load(run.folder / "checkpoint.pt", weights_only=True)["model"]


def killed_once(runs: Path, is_time, *overrides: str) -> None:
    """Start a run and kill it, as the system does, as soon as `is_time()`."""
    process = Forked("ablations.train", *train_words(runs, "job.checkpoint_seconds=0", *overrides))
    deadline = time.monotonic() + 120
    while not is_time():
        assert not process.has_ended, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("moment", ["training", "between training and record"])
def test_a_run_killed_and_started_again_ends_as_if_never_interrupted(tmp_path, moment):
    steps = "protocol.num_steps=12"
    assert train(tmp_path / "whole", steps).returncode == 0
    least = {"training": 4, "between training and record": 12}[moment]

    def is_time():
        found = list((tmp_path / "cut").glob("*/seed0/checkpoint.pt"))
        return bool(found) and torch.load(found[0], weights_only=True)["step"] >= least

    killed_once(tmp_path / "cut", is_time, steps)
    (cut,) = read_runs(tmp_path / "cut")
    assert cut.record.status == "running"
    resumed = train(tmp_path / "cut", steps)
    assert "going on from step" in resumed.stdout
    (whole,), (cut,) = read_runs(tmp_path / "whole"), read_runs(tmp_path / "cut")
    assert cut.record.metrics == whole.record.metrics
    assert cut.record.cells == whole.record.cells
    assert cut.curve() == whole.curve()
    assert cut.detections() == whole.detections()
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(cut)[name]), name


def test_workers_do_not_change_what_is_learned(tmp_path):
    for workers in (0, 2):
        done = train(tmp_path / str(workers), f"job.num_workers={workers}")
        assert done.returncode == 0, done.stderr
    runs = [read_runs(tmp_path / str(workers))[0] for workers in (0, 2)]
    assert runs[0].curve() == runs[1].curve()
    assert runs[0].record.digest == runs[1].record.digest


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(tmp_path):
    # no choice of proposals, by which a last digit would become another loss
    words = ["detector=retinanet", "protocol.precision=float32", "protocol.num_steps=4"]
    tiny = [word for word in TINY if not word.startswith("detector.")]
    for name, mode in (("eager", "off"), ("compiled", "default")):
        done = train(tmp_path / name, *words, f"job.compile={mode}", tiny=tiny)
        assert done.returncode == 0, done.stdout + done.stderr
    eager, compiled = (read_runs(tmp_path / name)[0] for name in ("eager", "compiled"))
    assert compiled.record.digest == eager.record.digest
    for row, other in zip(eager.curve(), compiled.curve(), strict=True):
        assert other == pytest.approx(row, rel=1e-3)


def test_a_table_runs_its_variants_and_notes_its_order_and_baseline(tmp_path):
    narrow = [o for o in TINY if not o.startswith("backbone=")]
    narrow += ["backbone.width_multiplier=0.125", "protocol.num_steps=2"]
    done = train(tmp_path, "-m", "+table=small", tiny=narrow)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 jobs: 4 trained, 0 done before, 0 failed, 0 lost" in done.stdout
    table = read_tables(tmp_path)["small"]
    names = ["detnet17", "detnet17_noproj", "detnet17_nodilation", "detnet_resnet14"]
    assert [v["variant"] for v in table["variants"]] == names
    assert table["baseline"] == "detnet17"
    digests = {run.record.variant: run.record.digest for run in read_runs(tmp_path)}
    assert {v["variant"]: v["digest"] for v in table["variants"]} == digests
    again = train(tmp_path, "-m", "+table=small", tiny=narrow)
    assert "4 jobs: 0 trained, 4 done before, 0 failed, 0 lost" in again.stdout
    plan = run_module("ablations.plan", *narrow, "+table=small", f"job.runs={tmp_path}", "seed=0,1")
    assert "8 runs: 4 done, 4 missing" in plan.stdout, plan.stderr


def test_a_failing_variant_does_not_stop_the_others_and_is_told_at_the_end(tmp_path):
    # A learning rate that blows up: refused by the loop, not by the checks
    rates = "protocol.learning_rate=1e30,0.01"
    done = train(tmp_path, "-m", rates, "protocol.warmup_steps=0", "protocol.num_steps=4")
    assert done.returncode == 1
    assert "2 jobs: 1 trained, 0 done before, 1 failed, 0 lost" in done.stdout
    last = done.stdout.strip().splitlines()[-1]
    assert "failed: detnet_atto," in last
    assert "protocol.learning_rate=1e+30 seed 0: NonFiniteLossError" in last
    status = {
        run.record.config["protocol"]["learning_rate"]: run.record for run in read_runs(tmp_path)
    }
    assert status[0.01].status == "done"
    assert status[1e30].status == "failed"
    assert "NonFiniteLossError" in status[1e30].error


def test_a_typo_in_the_last_job_trains_nothing(tmp_path):
    depths = "backbone.stages.c6.depth=1,2,3,1,2,3,zero"
    done = train(tmp_path, "-m", depths)
    assert done.returncode != 0
    assert "nothing was started, 1 of 7 jobs are wrong" in done.stderr
    assert "job 6" in done.stderr
    assert "'zero'" in done.stderr
    assert not list(tmp_path.glob("*"))


def test_stages_that_do_not_fit_the_backbone_are_refused_before_the_first_job(tmp_path):
    done = train(tmp_path, "-m", "detector.pooled_levels=null,[p2,p3],[p8,p9]")
    assert done.returncode != 0
    assert "nothing was started, 1 of 3 jobs are wrong" in done.stderr
    assert "p8 is not in the pyramid" in done.stderr


def test_a_table_without_m_is_refused_with_the_remedy(tmp_path):
    tiny = [o for o in TINY if not o.startswith("backbone=")]
    done = train(tmp_path, "+table=small", tiny=tiny)
    assert done.returncode == 2
    assert "+table=small is a sweep of several runs: add -m" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_wrong_value_of_a_single_run_is_told_in_a_line(tmp_path):
    done = train(tmp_path, "weights=nowhere.pth")
    assert done.returncode == 2
    assert "weights='nowhere.pth': no such file" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_sweep_names_variants_by_what_is_fixed_and_what_is_swept(tmp_path):
    fixed = ["backbone=detnet_atto", "backbone.stages.c6.projection=false"]
    shown = run_module(
        "ablations.plan", *fixed, f"job.runs={tmp_path}", "protocol.batch_size=2,4", "seed=0,1"
    )
    names = [line.split()[0] for line in shown.stdout.splitlines()[1:-1]]
    base = "detnet_atto,c6.projection=false,protocol.batch_size="
    assert names == [base + "2", base + "2", base + "4", base + "4"], shown.stderr


def test_a_table_and_the_command_line_cannot_both_choose_the_backbone(tmp_path):
    done = train(tmp_path, "-m", "+table=small")
    assert done.returncode != 0
    assert "table small sets backbone itself" in done.stderr


def test_a_single_failing_run_exits_non_zero(tmp_path):
    done = train(tmp_path, "protocol.learning_rate=1e30", "protocol.warmup_steps=0")
    assert done.returncode == 1
    assert "NonFiniteLossError" in done.stdout + done.stderr


def test_masks_are_asked_of_data_that_have_them(tmp_path, shared):
    bccd = shared / "data" / "bccd"
    data = ["data=coco", f"data.root={bccd}", "data.train=annotations/val.json",
            "data.val=annotations/val.json"]  # fmt: skip
    tiny = [o for o in TINY if not o.startswith("data.")]
    done = train(tmp_path, *data, "detector=mask_rcnn_light", tiny=tiny)
    assert done.returncode == 2
    assert "no annotation has a usable segmentation" in done.stdout


@pytest.mark.parametrize("module", ["ablations.train", "ablations.plan", "ablations.rescore"])
def test_help_shows_how_to_call(module):
    shown = run_module(module, "--help")
    assert shown.returncode == 0
    assert f"python -m {module}" in shown.stdout


def test_a_checkpoint_of_a_backbone_is_loaded_from_a_local_file(tmp_path):
    import timm

    import detnet  # noqa: F401

    torch.manual_seed(7)
    body = timm.create_model("detnet_atto")
    path = tmp_path / "atto.pth"
    torch.save(body.state_dict(), path)
    done = train(tmp_path / "runs", f"weights={path}", "protocol.learning_rate=1e-30")
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = read_runs(tmp_path / "runs")
    stem = next(v for k, v in weights(run).items() if k.endswith("body.conv1.weight"))
    assert np.array_equal(stem.numpy(), body.state_dict()["conv1.weight"].numpy())
