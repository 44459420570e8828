"""What users of Hydra are used to write works, or is refused with the remedy."""

import os
import subprocess
import sys

import pytest
from commands import ROOT, TINY, command, environment, run_module, train, train_words
from hydra.core.global_hydra import GlobalHydra

from ablations import train as training
from ablations.plan import main as plan
from ablations.record import read_runs
from ablations.sweep.habits import understood

NO_TABLE_WORDS = [word for word in TINY if not word.startswith("backbone=")]


@pytest.fixture
def called(monkeypatch, capfd):
    """Call the command in this process: its exit code and what it printed."""

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train", *words])
        GlobalHydra.instance().clear()
        try:
            training.command_line()
            code = 0
        except SystemExit as ended:
            code = ended.code
        return code, "".join(capfd.readouterr())

    return call


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["-m", "hydra/sweeper=optuna", "seed=0,1"], "hydra/sweeper=search"),
        (["-m", "hydra/launcher=rq", "seed=0,1"], "hydra/launcher=rq: no such choice"),
        (["hydra.sweep.dir=outputs"], "give job.runs=FOLDER"),
        (["-m", "hydra.run.dir=outputs", "seed=0"], "give job.runs=FOLDER"),
        (["--config-dir", "/nowhere", "+table=mine"], "not found"),
        (["--config-name", "other"], "other"),
        (["table=small"], "is a sweep of several runs: add -m"),
        (["-m", "table=smal"], "did you mean small?"),
        (["-m", "hydra.sweeper.ordr=cheapest"], "ordr"),
        (["-m", "hydra.sweeper.order=fastest"], "give asked, cheapest, dearest"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_remedy(called, tmp_path, words, remedy):
    flags = [word for word in words if word.startswith(("-", "/"))]
    if "--config-name" in flags:
        flags.append("other")
    others = [word for word in words if word not in flags]
    code, printed = called(*flags, *NO_TABLE_WORDS, f"job.runs={tmp_path}", *others)
    assert code == 2, printed
    assert remedy in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("launcher", "extra"),
    [("slurm", "launchers"), ("processes", "launchers"), ("ray_cluster", "ray")],
)
def test_a_launcher_that_is_not_installed_is_refused_with_its_extra(tmp_path, launcher, extra):
    hidden = tmp_path / "site"
    hidden.mkdir()
    blocked = "hydra_joblib_launcher", "hydra_submitit_launcher", "hydra_ray_launcher"
    hidden.joinpath("sitecustomize.py").write_text(
        "import sys\n"
        f"for name in {blocked}: sys.modules['hydra_plugins.' + name] = None\n"
    )  # fmt: skip
    words = train_words(tmp_path / "runs", "-m", f"hydra/launcher={launcher}", "seed=0,1")
    done = subprocess.run(
        command("ablations.train", *words), cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**environment(), "PYTHONPATH": str(hidden)}, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"pip install 'detnet-ablations[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_may_be_written_with_a_plus_or_without(capsys, tmp_path):
    shown = []
    for word in ("table=small", "+table=small"):
        assert plan([*NO_TABLE_WORDS, word, f"job.runs={tmp_path}"]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert "4 runs: 4 missing" in shown[0]


def test_cfg_job_shows_the_configuration_and_runs_nothing(called, tmp_path):
    code, printed = called("--cfg", "job", *TINY, f"job.runs={tmp_path}/runs")
    assert code == 0
    assert "num_steps: 8" in printed
    assert not list(tmp_path.iterdir())


def test_seeds_may_be_a_range_and_a_sweep_may_sweep_nothing(capsys, tmp_path):
    assert plan([*TINY, f"job.runs={tmp_path}", "seed=range(0,3)"]) == 0
    assert "3 runs: 3 missing" in capsys.readouterr().out
    assert plan(["-m", *TINY, f"job.runs={tmp_path}"]) == 0
    assert "1 runs: 1 missing" in capsys.readouterr().out


def test_hydras_basic_sweeper_runs_lists_and_fails_with_what_fails(tmp_path):
    words = ["hydra/sweeper=basic", "protocol.warmup_steps=0", "protocol.num_steps=2"]
    done = train(tmp_path, "-m", *words, "protocol.learning_rate=1e30,0.01")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NonFiniteLossError" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(run.record.status for run in read_runs(tmp_path)) == ["done", "failed"]
    again = train(tmp_path, "-m", *words, "protocol.learning_rate=0.01")
    assert again.returncode == 0, again.stdout + again.stderr


def test_a_run_works_in_a_folder_with_spaces_and_foreign_letters(tmp_path):
    folder = tmp_path / "Läufe – 第1 回"
    (folder / "eigene configs" / "table").mkdir(parents=True)
    rows = "name: mine\nvariants:\n  ä: [seed=0]\n  b: [protocol.gamma=0.2]\n"
    (folder / "eigene configs" / "table" / "mine.yaml").write_text(rows, encoding="utf-8")
    words = [*TINY, "protocol.num_steps=2", "job.runs='ein Ordner/runs'", "+table=mine"]
    words = ["-m", "--config-dir", "eigene configs", *words]
    done = run_module("ablations.train", *words, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 jobs: 2 trained" in done.stdout
    assert len(read_runs(folder / "ein Ordner" / "runs")) == 2
    assert sorted(os.listdir(folder)) == ["eigene configs", "ein Ordner"]


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("data.root=~/coco", "data.root='~/coco'"),
        ("data.root=~", "data.root='~'"),
        ("weights=~/a.pth,~/b c.pth,scratch", "weights='~/a.pth','~/b c.pth',scratch"),
        ("hydra.searchpath=[~/conf]", "hydra.searchpath=['~/conf']"),
        ("data.root='~/coco'", "data.root='~/coco'"),
        ("~backbone.stages.c6", "~backbone.stages.c6"),
        ("+data.root=a~/b", "+data.root=a~/b"),
    ],
)
def test_the_home_folder_is_written_as_in_a_shell(word, read):
    assert understood([word]) == [read]
