"""Where Optuna keeps a study: in memory, in a file or in a database."""

import os
import warnings
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import (
    JournalFileBackend,
    JournalFileOpenLock,
    JournalFileSymlinkLock,
)

_SQLITE = (".db", ".sqlite", ".sqlite3")
_SECONDS_TO_WAIT = 300
"""For SQLite, which one process writes at a time; its own 5 s lose trials where many report."""


class StudyStorageError(ValueError):
    """A study's storage cannot be used; the message names the field and the remedy."""


def storage_of(storage: str | None) -> BaseStorage:
    """Optuna's storage: None in memory, a URL a database, FILE.db SQLite, any other file a journal.

    Raises StudyStorageError that names the field and the remedy.
    """
    if storage is None:
        return InMemoryStorage()
    try:
        if "://" in storage:
            return RDBStorage(storage)
        path = Path(storage).expanduser().absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in _SQLITE:
            patient = {"connect_args": {"timeout": _SECONDS_TO_WAIT}}
            return RDBStorage(f"sqlite:///{path}", engine_kwargs=patient)
        # Windows lets few users make symbolic links; shared file systems know no other safe lock
        lock = (JournalFileOpenLock if os.name == "nt" else JournalFileSymlinkLock)(str(path))
        return JournalStorage(JournalFileBackend(str(path), lock))
    except Exception as error:  # a driver's, SQLAlchemy's or the system's own
        told = error.__cause__ or error  # Optuna does not say which driver is missing
        reason = (str(told).splitlines() or [type(told).__name__])[0]
        raise StudyStorageError(
            f"storage of the study: cannot be used ({type(error).__name__}: {reason}): give null, "
            "a file, FILE.db, or the URL of a database whose driver is installed"
        ) from error


def quiet() -> None:
    """Let Optuna tell warnings only, through the log of the command."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
