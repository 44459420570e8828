"""The installed package works away from a checkout: conf/ and the sweeper plugin travel with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, run_module

pytest.importorskip("hatchling", reason="hatchling builds the wheel: install the dev extra")
pytest.importorskip("pip", reason="pip installs the wheel")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True, timeout=120)
    return site


def test_the_wheel_holds_the_packages_and_the_configuration(installed):
    assert (installed / "ablations" / "conf" / "config.yaml").is_file()
    assert (installed / "hydra_plugins" / "ablations_sweepers" / "__init__.py").is_file()
    assert (installed / "analysis" / "published.csv").is_file()
    for name in ("page.html", "page.css"):
        assert (installed / "analysis" / "pages" / "templates" / name).is_file()
    assert (installed / "bin" / "detnet-report").is_file()
    assert not (installed / "tests").exists()


def test_the_installed_package_is_what_answers(installed, tmp_path):
    shown = subprocess.run(
        [sys.executable, "-c", "import analysis; print(analysis.load.__code__.co_filename)"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert Path(shown.stdout.strip()).is_relative_to(installed)


def test_help_works_when_installed(installed, tmp_path):
    shown = run_module("ablations.train", "--help", cwd=tmp_path, site=installed)
    assert shown.returncode == 0, shown.stderr
    assert "detnet59" in shown.stdout
    assert "smoke" in shown.stdout


def test_a_plan_works_when_installed(installed, tmp_path):
    shown = run_module("ablations.plan", "+table=small", cwd=tmp_path, site=installed)
    assert shown.returncode == 0, shown.stderr
    assert "4 runs: 4 missing" in shown.stdout


def test_a_sweep_finds_its_plugin_when_installed(installed, tmp_path):
    shown = run_module("ablations.train", "-m", "seed=-1,-2", cwd=tmp_path, site=installed)
    assert "nothing was started, 2 of 2 jobs are wrong" in shown.stderr
