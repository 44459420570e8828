"""What the command line refuses: told in a line that names field and remedy, nothing started."""

import sys

import pytest
import torch
from commands import TINY
from hydra.core.global_hydra import GlobalHydra

from ablations import train

NO_TABLE_WORDS = [word for word in TINY if not word.startswith("backbone=")]


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Call the command in this process and return what it printed; it must have refused."""

    def call(*words: str, tiny=TINY) -> str:
        flags = [word for word in words if word == "-m"]
        others = [word for word in words if word != "-m"]
        runs = (
            [] if any(word.startswith("job.runs") for word in words) else [f"job.runs={tmp_path}"]
        )
        monkeypatch.setattr(sys, "argv", ["train", *flags, *tiny, *runs, *others])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as ended:
            train.command_line()
        printed = "".join(capfd.readouterr())
        assert ended.value.code == 2, printed
        assert "Traceback" not in printed
        assert len(printed) < 4000
        assert not list(tmp_path.glob("*/seed*"))
        return printed

    return call


@pytest.mark.parametrize("flags", [[], ["-m"]])
@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("+tables=ablation", "did you mean table?"),
        ("+protocols=paper", "did you mean protocol?"),
        ("+sed=7", "did you mean seed?"),
        ("+experiment=foo", "there are backbone, data, detector"),
        ("+protocol.num_step=4", "did you mean num_steps?"),
        ("+data.image_siz=64", "did you mean image_size?"),
        ("backbone.stages.c6.dialtion=1", "did you mean dilation?"),
        ("protcol=smoke", "did you mean protocol?"),
        ("backbone=detnet60", "did you mean detnet"),
        ("detector=mask_rcn", "did you mean mask_rcnn?"),
    ],
)
def test_a_key_or_choice_that_does_not_exist_is_refused_with_the_nearest(
    refused, flags, word, hint
):
    printed = refused(*flags, word)
    assert hint in printed
    assert word.lstrip("+").partition("=")[0].rpartition(".")[2] in printed


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("job.num_threads=0", "job.num_threads=0: give a whole number above 0"),
        ("job.num_sample_images=-3", "job.num_sample_images=-3: give a whole number at"),
        ("job.num_threads=99999999999999999999", "and at most 1024, or null"),
        ("job.num_threads=3000000000", "and at most 1024, or null"),
        ("job.num_workers=100000", "job.num_workers=100000: give a whole number at least 0 and"),
        ("job.log_seconds=1e300", "job.log_seconds=1e+300: give a finite number above 0 and at"),
        ("protocol.batch_size=99999999999999999999", "and at most 2147483647"),
        ("protocol.num_steps=99999999999999999999", "and at most 2147483647"),
        ("data.min_size=nan", "data.min_size=nan: give at least 4 pixels"),
        ("data.min_size=inf", "data.min_size=inf: give at least 4 pixels"),
        ("backbone.stages.c6.width=99999999999999999999", "stage c6, width: 99999999999999999999"),
        ("backbone.stages.c6.depth=99999999", "stage c6, depth: 99999999"),
        ("backbone.stages.c6.dilation=99999999999999999999", "stage c6, dilation: 9999999999999"),
        ("backbone.width_multiplier=1e300", "width_multiplier: 1e+300"),
        ("backbone.depth_multiplier=1e300", "depth_multiplier: 1e+300"),
        ("job.checkpoint_seconds=-1", "job.checkpoint_seconds=-1.0: give a finite number at least"),
        ("job.log_seconds=nan", "job.log_seconds=nan: give a finite number above 0"),
        ("protocol.learning_rate=inf", "protocol.learning_rate=inf: give a finite number above 0"),
        ("protocol.weight_decay=nan", "protocol.weight_decay=nan: give a finite number at least 0"),
        ("seed=99999999999999999999", "seed=99999999999999999999: give 0 to 9223372036854775807"),
        ("job.runs=", "job.runs='': give a folder"),
        ("task=segmentation", "task=segmentation: no such choice; there are classify, detect"),
        ("protocol.learning_rate=fast", "Value 'fast' of type 'str' could not be converted"),
        ("seed=abc", "seed=abc (Value 'abc' of type 'str' could not be converted to Integer"),
        ("weights=null", "weights=null (field 'weights' is not Optional)"),
        ("backbone=null", "backbone=null: give the name of a choice"),
        ("~seed", "~seed: cannot be deleted"),
        ("~job", "job"),
        ("+hydra.foo=3", "+hydra.foo: no such field"),
        ("+hydra.job.nam=x", "+hydra.job.nam: no such field; did you mean name?"),
        ("detector.score_treshold=0.1", "did you mean score_threshold?"),
        ("+backbone.stages.c7={depth:1,width:8}", "added with '+backbone.stages={c7:"),
        ("val=[x", "no viable alternative at input '[x'"),
        ("table.baseline=nowhere", "without +table=NAME"),
    ],
)
def test_a_wrong_value_is_refused_by_field_and_remedy(refused, word, message):
    assert message in refused(word)


def test_a_value_of_ten_kilobytes_is_not_echoed_whole(refused):
    assert "characters)" in refused("weights=" + 10_000 * "x")


def test_a_weights_file_that_holds_no_tensors_is_refused(refused):
    printed = refused(f"weights={__file__}")
    assert "is no file of tensors" in printed
    assert "weights_only=False" not in printed


@pytest.mark.parametrize("content", [[torch.ones(2)], {"epoch": 3}, torch.ones(2)])
def test_a_weights_file_of_something_else_is_refused(refused, tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    assert "is no file of tensors" in refused(f"weights={tmp_path / 'w.pth'}")


@pytest.mark.parametrize("word", ["backbone.out_indices=[1,9]", "backbone.output_stride=7"])
def test_what_timm_cannot_build_is_refused_by_field(refused, word):
    printed = refused("backbone=timm", "backbone.name=resnet18", word, tiny=NO_TABLE_WORDS)
    assert "backbone.name=resnet18: timm cannot build it as asked" in printed
    assert word.partition("=")[0] in printed


def test_the_home_folder_needs_no_quotes(refused):
    assert "weights='~/no such.pth': no such file" in refused("weights=~/no such.pth")


def test_a_runs_folder_that_is_a_file_is_refused(refused):
    assert "is a file; name a folder" in refused("-m", f"job.runs={__file__}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["variant=foo,bar"], "variant: names one variant"),
        (["job.num_threads=1,2"], "job.num_threads: decides no result"),
        (["+table=small", "+table.baseline=nowhere"], "is no variant of table small; choose one"),
        (["+table={name:x,variants:{}}"], "a table is a file: write table/NAME.yaml"),
        (["+table={name:x,variants:{a:['seed=1']},foo:1}"], "a table is a file"),
        (["+table=projection,dilation", "table.baseline=detnet59"], "is of one table"),
        (["+table=projection", "variant=foo"], "variant=foo: names one variant"),
        (["variant=foo", "backbone=detnet17,detnet59"], "variant=foo: names one variant"),
        (["+hydra.foo=3", "seed=0,1"], "+hydra.foo: no such field"),
        (["+table=small", "hydra/sweeper=basic"], "leave out hydra/sweeper"),
        (["protocol.learning_rate=interval(0.1,0.2)"], "a grid needs a list of values"),
    ],
)
def test_a_sweep_that_would_run_something_else_is_refused(refused, words, message):
    assert message in refused("-m", *words, tiny=NO_TABLE_WORDS)


RATES = "protocol.learning_rate=tag(log,interval(0.01,0.02))"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=3"], "nothing to search: give a key several values"),
        ([RATES, "hydra.sweeper.sampler=tpa"], "hydra.sweeper.sampler=tpa: did you mean tpe?"),
        (
            [RATES, "hydra.sweeper.sampler_options={n_start_trials:3}"],
            "sampler_options.n_start_trials: no such option; did you mean n_startup_trials?",
        ),
        ([RATES, "hydra.sweeper.sampler=grid"], "protocol.learning_rate has no end of values"),
        ([RATES, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: give a whole number"),
        ([RATES, "hydra.sweeper.objectives={APs:maximize}"], "objectives.APs: no such metric or"),
        ([RATES, "hydra.sweeper.objectives={AP:up}"], "objectives.AP=up: give maximize or"),
        ([RATES, "hydra.sweeper.constraints={mac:1}"], "constraints.mac: no such cost; did you"),
        ([RATES, "hydra.sweeper.n_jobs=2"], "the launcher basic runs jobs one after the other"),
        ([RATES, "hydra.sweeper.pruner=paired"], "give job.evaluate_every, in steps, below"),
        (
            [RATES, "hydra.sweeper.pruner=median", "job.evaluate_every=2",
             "hydra.sweeper.storage=null"],
            "give hydra.sweeper.storage",
        ),
        (
            [RATES, "hydra.sweeper.pruner=median", "job.evaluate_every=2",
             "hydra.sweeper.objectives={AP:maximize,macs:minimize}"],
            "compares one metric during training, not AP and macs",
        ),
        ([RATES, "hydra.sweeper.storage=nodb://there"], "storage of the study: cannot be used"),
        (["protocol.num_steps=interval(10,20)"], "protocol.num_steps=13.3"),
        (["protocol.num_stps=10,20"], "did you mean num_steps?"),
        ([RATES, "variant=mine"], "variant=mine: names one variant: leave it out"),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be_done_is_refused_before_any_trial(refused, words, message):
    assert message in refused("-m", "hydra/sweeper=search", *words)


def test_the_sweeper_of_others_is_answered_with_ours(refused):
    words = ["hydra/sweeper=optuna", "hydra.sweeper.study_name=x", "hydra/sweeper/sampler=tpe"]
    printed = refused("-m", *words, RATES)
    assert "own sweeper is hydra/sweeper=search" in printed
    assert "hydra.sweeper.study=NAME" in printed
