import json
import multiprocessing
from pathlib import Path

import pytest

from ablations.identity import digest
from ablations.record import (
    RecordError,
    RunRecord,
    read_record,
    read_runs,
    read_tables,
    run_folder,
    write_record,
    write_table,
)
from ablations.storage import HeldElsewhereError, held, write_atomically


def record(**changes):
    values = {"variant": "detnet59", "seed": 0, "digest": "abc", "status": "done", "config": {}}
    values["metrics"] = {"AP": 0.5}
    return RunRecord(**(values | changes))


def test_a_record_reads_back_as_written(tmp_path):
    written = record(metrics={"AP": 0.5, "AP_large": None}, error="why")
    write_record(tmp_path / "detnet59-abc" / "seed0", written)
    (run,) = read_runs(tmp_path)
    assert run.record == written
    assert run.folder == tmp_path / "detnet59-abc" / "seed0"


def test_the_digest_does_not_depend_on_key_order_and_sees_every_value():
    assert digest({"a": 1, "b": {"c": [1, 2]}}) == digest({"b": {"c": [1, 2]}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_a_nan_in_a_config_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"a": float("nan")})


def test_a_folder_that_holds_another_run_is_refused(tmp_path):
    write_record(tmp_path, record(digest="abc"))
    with pytest.raises(RecordError, match=r"record\.json holds digest abc .* not xyz"):
        write_record(tmp_path, record(digest="xyz"))
    assert read_record(tmp_path / "record.json").digest == "abc"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "schema 99"),
        ({"status": "perhaps"}, "status 'perhaps'"),
        ({"color": 1}, "unknown field 'color'"),
        ({"results_version": "4"}, r"Expected `int`, got `str` - at `\$.results_version`; move it"),
        ({"metrics": {"AP": "0.5"}}, r"Expected `float \| null`, got `str` - at `\$.metrics"),
        ({"seed": 0.5}, r"at `\$.seed`"),
        ({"config": {"seed": 3}}, "seed is 0, but 3 in its config"),
        ({"metrics": {"AP": 7.0}}, r"metrics.AP is 7.0: a fraction is from 0 to 1; move it"),
        ({"metrics": {"AP": -3}}, r"metrics.AP is -3.0: a fraction"),
        ({"metrics": {"AP": 0.5, "top1_error": 1.5}}, r"metrics.top1_error is 1.5: a fraction"),
        ({"cells": {"bbox": {"AR": [[[0.5, None, 2]]]}}}, r"cells.bbox.AR is 2: a fraction"),
        ({"cells": {"segm": {"categories": [{"id": -7, "AP_small": -0.5}]}}}, "AP_small is -0.5"),
        (
            {"cells": {"bbox": {"categories": [{"num_objects": {"all": -1}}]}}},
            "cells.bbox.categories.num_objects.all is -1: a count is not below 0",
        ),
        ({"data": {"num_val": -64}}, "data.num_val is -64: a count is not below 0; move it away"),
        ({"cost": {"stages": {"c2": {"macs": -1}}}}, "cost.stages.c2.macs is -1: a count"),
        ({"timing": {"train_seconds": -0.1}}, "timing.train_seconds is -0.1: a count"),
        ({"seed": None}, None),
    ],
)
def test_a_foreign_record_is_refused_by_file_and_field(tmp_path, change, message):
    write_record(tmp_path, record())
    path = tmp_path / "record.json"
    content = json.loads(path.read_text())
    if message is None:
        del content["seed"]
        message = "'seed' is missing"
    else:
        content.update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=rf"record\.json.*{message}"):
        read_record(path)


def test_absent_values_are_believed_as_null_and_as_cocos_minus_one(tmp_path):
    category = {"id": -7, "name": "cat", "AP": -1, "num_objects": {"all": 0}}
    cells = {"AP": [[[0.0, 1.0, None, -1]]], "categories": [category]}
    written = record(metrics={"AP": 1.0, "AP_large": None, "AR_large": -1}, cells={"bbox": cells})
    write_record(tmp_path, written)
    assert read_record(tmp_path / "record.json") == written


@pytest.mark.parametrize("name", ["latency.json", "receptive_field.json"])
def test_a_measured_number_below_0_is_refused_by_file_and_field(tmp_path, name):
    write_record(tmp_path / "v-abc" / "seed0", record())
    (tmp_path / "v-abc" / name).write_text('{"batch_1": {"p50": -0.1}}')
    faults = []
    (run,) = read_runs(tmp_path, faults)
    assert run.latency == run.receptive_field == {}
    (fault,) = faults
    assert f"{name}: batch_1.p50 is -0.1: a count is not below 0; move it away" in fault


@pytest.mark.parametrize("rest", [b'{"step": 2, "lo', b"\xff\x00", b""])
def test_what_is_left_of_a_line_of_a_curve_is_no_step(tmp_path, rest):
    write_record(tmp_path / "v-abc" / "seed0", record())
    for name in ("curve.jsonl", "evaluations.jsonl"):
        (tmp_path / "v-abc" / "seed0" / name).write_bytes(b'{"step": 1}\n' + rest)
    (run,) = read_runs(tmp_path)
    assert run.curve() == run.evaluations() == [{"step": 1}]


def test_half_a_record_is_refused_by_name(tmp_path):
    path = tmp_path / "v-1" / "seed0" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 1, "vari')
    with pytest.raises(RecordError, match=r"record\.json: not readable"):
        read_runs(tmp_path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("variant", ["../up", "a/b", "", ".hidden", "a b"])
def test_a_variant_that_is_no_folder_name_is_refused(variant):
    with pytest.raises(RecordError, match="cannot name a folder"):
        run_folder(Path("runs"), variant, "abc", 0)


def test_tables_keep_their_order_and_baseline(tmp_path):
    variants = [{"variant": "b", "digest": "1"}, {"variant": "a", "digest": "2"}]
    for _ in range(2):
        write_table(tmp_path, "projection", variants, baseline="b")
    table = read_tables(tmp_path)["projection"]
    assert (table["variants"], table["baseline"]) == (variants, "b")


def test_a_table_on_other_data_does_not_replace_the_first(tmp_path):
    for digest_of_b in ("1", "9"):
        variants = [{"variant": "b", "digest": digest_of_b}]
        write_table(tmp_path, "small", variants, baseline="b")
    tables = read_tables(tmp_path)
    assert len(tables) == 2
    assert all(name.startswith("small-") for name in tables)
    assert {t["variants"][0]["digest"] for t in tables.values()} == {"1", "9"}


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1}', '{"schema": 2}'])
def test_a_damaged_table_is_refused_by_name(tmp_path, content):
    (tmp_path / "table-small.json").write_text(content)
    with pytest.raises(RecordError, match=r"table-small\.json: "):
        read_tables(tmp_path)


def _try_lock(folder, outcome):
    try:
        with held(folder):
            outcome.put("held")
    except HeldElsewhereError as error:
        outcome.put(str(error))


def test_a_second_process_cannot_take_a_run_that_is_running(tmp_path):
    context = multiprocessing.get_context("spawn")
    outcome = context.Queue()
    with held(tmp_path):
        process = context.Process(target=_try_lock, args=(tmp_path, outcome))
        process.start()
        assert "another process" in outcome.get(timeout=30)
        process.join()
    with held(tmp_path):
        pass
