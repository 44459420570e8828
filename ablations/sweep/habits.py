"""What users of Hydra are used to write, and how this project has it."""

from collections.abc import Iterable

from ablations.config import ConfigError

_NOT_INSTALLED = "it is not installed: pip install 'detnet-ablations[{}]'"
NO_SUCH_FILE = {
    "hydra/launcher/joblib": _NOT_INSTALLED.format("launchers"),
    "hydra/launcher/submitit_local": _NOT_INSTALLED.format("launchers"),
    "hydra/launcher/submitit_slurm": _NOT_INSTALLED.format("launchers"),
    "hydra/launcher/ray": _NOT_INSTALLED.format("ray"),
}
"""What to do where Hydra finds no file of this group and choice."""

_IGNORED = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")


def understood(words: Iterable[str]) -> list[str]:
    """The words of a command line as Hydra takes them; raises ConfigError for what says nothing.

    `table=NAME` is `+table=NAME`: no run needs a table, so Hydra's defaults have none.
    """
    given = list(words)
    for word in given:
        if (key := word.lstrip("+").partition("=")[0]) in _IGNORED:
            raise ConfigError(
                f"{key}: a run's folder is named by what the run computes, below job.runs: give "
                "job.runs=FOLDER"
            )
    return [f"+{word}" if word.startswith("table=") else word for word in given]
