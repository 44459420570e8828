"""What is wrong with a data set: the error that refuses it, and the list of what was put right."""

import logging
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 5


class DataError(ValueError):
    """A data set that cannot be used; the message names the file, the field and the remedy."""


@dataclass(slots=True)
class Fault:
    """One kind of fault met in a data set: what was done about it, and the first few by name."""

    kind: str
    action: str
    remedy: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Faults:
    """Collects faults that do not stop a data set from being used.

    Parameters
    ----------
    kinds: kind -> (action, remedy), for every kind that may be noted
    """

    def __init__(self, kinds: dict[str, tuple[str, str]]) -> None:
        self._kinds = kinds
        self._met: dict[str, Fault] = {}

    def note(self, kind: str, what: str) -> None:
        """Count one fault; `what` names the file, the annotation or image, the field and value."""
        if kind not in self._met:
            self._met[kind] = Fault(kind, *self._kinds[kind])
        fault = self._met[kind]
        fault.count += 1
        if len(fault.examples) < NUM_EXAMPLES:
            fault.examples.append(what)

    def summary(self) -> list[dict[str, object]]:
        """The faults as plain JSON values, in the order they were first met."""
        return [
            {
                "kind": fault.kind,
                "action": fault.action,
                "count": fault.count,
                "remedy": fault.remedy,
                "examples": list(fault.examples),
            }
            for fault in self._met.values()
        ]

    def log(self) -> None:
        """One warning per kind of fault, with its first example."""
        for fault in self._met.values():
            logger.warning(
                "%s %d x %s, first: %s; remedy: %s",
                fault.action,
                fault.count,
                fault.kind,
                fault.examples[0],
                fault.remedy,
            )
