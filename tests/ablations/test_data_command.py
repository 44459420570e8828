"""`python -m ablations.data`: what it says of a data set, and what it exits with."""

from pathlib import Path

import pytest
from broken_data import write_broken

from ablations import progress
from ablations.data.__main__ import main


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command") / "data"
    write_broken(folder)
    return folder


def fields(broken: Path, train: str, val: str = "00_good") -> list[str]:
    return [
        "coco",
        f"root={broken}",
        f"train=annotations/{train}.json",
        f"val=annotations/{val}.json",
    ]


def test_a_truncated_image_passes_a_check_of_headers_only(broken: Path) -> None:
    assert main(["check", *fields(broken, "08_truncated_jpeg")]) == 0


@pytest.mark.parametrize(
    "splits", [("08_truncated_jpeg", "00_good"), ("00_good", "08_truncated_jpeg")]
)
def test_decoding_tells_a_truncated_image_and_exits_1(
    broken: Path, splits: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *fields(broken, *splits), "--decode"]) == 1
    out = capsys.readouterr().out
    [line] = [line for line in out.splitlines() if "truncated.jpg" in line]
    assert "annotations/08_truncated_jpeg.json: image 2" in line
    assert "cannot be decoded" in line
    assert "2 of 3 images decoded" in out
    assert "3 of 3 images decoded" in out


def test_each_split_is_checked_to_its_end(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["check", *fields(broken, "08_truncated_jpeg", "08_truncated_jpeg"), "--decode"]) == 1
    )
    assert capsys.readouterr().out.count("cannot be decoded") == 2


def test_decoding_of_a_sound_data_set_exits_0(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *fields(broken, "00_good"), "--decode"]) == 0
    assert capsys.readouterr().out.count("3 of 3 images decoded") == 2


def test_decoding_says_how_far_it_is(
    broken: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(progress, "SECONDS", 0)
    main(["check", *fields(broken, "00_good"), "--decode"])
    assert any(line.startswith("images decoded 1/3") for line in caplog.messages)


def test_data_that_is_refused_exits_2(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *fields(broken, "19_unknown_category_id"), "--decode"]) == 2
    assert "category_id" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["export"], ["sheet", "glyphs", "num_train=1"]])
def test_an_out_that_cannot_be_written_exits_2_and_its_name(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("")
    out = tmp_path / "mine" / "sheet.png"
    assert main([*command, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(out) in error


def test_the_home_folder_is_known(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(broken.parent))
    assert main(["check", *fields(Path("~") / broken.name, "00_good")]) == 0
