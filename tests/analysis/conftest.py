import pytest
from fabricated_runs import make_truth, write_run

TRUTH = make_truth(6)


@pytest.fixture
def runs(tmp_path):
    """Baseline with two seeds, a variant with two, one with one, a failed and a missing one."""
    for seed in (0, 1):
        write_run(tmp_path, "detnet59", TRUTH, seed=seed, skill=0.8)
        write_run(tmp_path, "noproj", TRUTH, seed=seed, skill=0.6, macs=4.6e9)
    write_run(tmp_path, "detnet_resnet50", TRUTH, skill=0.4, macs=3.9e9)
    traceback = (
        "Traceback (most recent call last):\n"
        '  File "engine.py", line 1, in fit\n    raise ValueError\n'
        "ValueError: the loss is not finite\nimages 3, 4"
    )
    write_run(tmp_path, "exploding", TRUTH, status="failed", error=traceback)
    return tmp_path
