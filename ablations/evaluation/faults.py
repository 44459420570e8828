"""What may be wrong with a COCO file: one rule per fault, and what becomes of it.

What leaves open what a file means refuses it always: a category that is not listed, two images of
one id, boxes that are shares of the image. Any other fault has a rule here, and the policy of who
reads decides: 'mend' drops or repairs what is at fault, by name; 'refuse' changes nothing, since
another truth has other scores: it refuses the file where it cannot be scored as it stands.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

POLICIES = ("mend", "refuse")
NUM_EXAMPLES = 5
MAX_SHOWN = 120
"""Characters of a value that a message repeats."""


class FormatError(ValueError):
    """A COCO file that cannot be used; names the file, the entry, the field and the remedy."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of one fault.

    mended: what 'mend' does; None where it takes the usual value and says nothing
    kept: what 'refuse' says where it scores the entry as it stands; None where it refuses the file
    remedy: what the owner of the file can do
    """

    mended: str | None
    kept: str | None
    remedy: str


_NO_MASK = "trained and scored by its box alone; its mask is neither learned nor scored"
_DROPPED = f"dropped the mask: the object is {_NO_MASK}"
_LEAVING = "boxes that leave their image; x, y, width, height are expected"
_TOLD = "warned"

RULES = {
    "unknown_image": Rule("dropped", None, "list the image, or remove the annotation"),
    "box_not_finite": Rule("dropped", None, "write the box again as four finite numbers"),
    "box_negative": Rule("dropped", None, "give the box a width and height above 0, or remove it"),
    "box_empty": Rule(
        "dropped",
        "boxes of no width or height, which nothing can match",
        "give the box a width and height above 0, or remove it",
    ),
    "box_outside": Rule(
        "dropped", _LEAVING, "the box shares no pixel with its image: correct or remove it"
    ),
    "box_clipped": Rule("clipped", _LEAVING, "keep boxes within the image"),
    "boxes_leave_image": Rule(
        _TOLD,
        "doubts whether boxes are x, y, width, height: so many leave their image",
        "are boxes written as x1,y1,x2,y2? COCO's are x,y,width,height",
    ),
    "boxes_in_other_order": Rule(
        "warned: read as x, y, width, height", None, "write x, y, width, height in pixels"
    ),
    "area_absent": Rule(
        None, "annotations without area, area of the mask or box taken", "write the area"
    ),
    "area_wrong": Rule("computed anew", None, "leave `area` out, or write the number of pixels"),
    "area_out_of_range": Rule(
        "computed anew",
        "areas of 0, or larger than the image; scored by them",
        "leave `area` out, or write the number of pixels",
    ),
    "area_at_odds": Rule(
        "kept: it sets the size an object is scored by",
        "areas at odds with box or mask; scored by them",
        "correct `area`, or have every area computed anew: recompute_areas",
    ),
    "mask_part_dropped": Rule("dropped that polygon", None, "mend or remove the polygon"),
    "mask_dropped": Rule(_DROPPED, None, "mend or remove the segmentation"),
    "mask_empty": Rule(
        _DROPPED,
        "masks without a pixel, which nothing can match",
        "draw the mask within its image, or remove it",
    ),
    "mask_misses_box": Rule(
        _DROPPED,
        "masks that lie outside their box; scored as they are",
        "is it the mask of another object? Correct mask or box",
    ),
    "mask_missing": Rule(
        _NO_MASK,
        "objects without a mask; not scored as masks",
        "draw the mask, or use boxes alone (data.masks=false)",
    ),
    "masks_unused": Rule(
        "boxes only", None, "draw the masks that are missing, or ask with data.masks=true"
    ),
    "annotation_ids_renumbered": Rule(
        "renumbered",
        "annotation ids that are absent, 0, used before or not whole; not used",
        "number annotations from 1, each id once",
    ),
    "annotation_repeated": Rule(
        _TOLD,
        "annotations that repeat another; scored as they stand",
        "remove the copy: no detection finds both",
    ),
    "category_unnamed": Rule(
        "named by its id", "categories without a name, named by their id", "name the category"
    ),
    "category_name_repeated": Rule(
        "told apart by id",
        "categories that share their name, told apart by id",
        "give each category a name of its own",
    ),
    "category_names_alike": Rule(
        _TOLD,
        "categories whose names look the same",
        "are they one category? They differ in case, blanks or the form of a letter alone",
    ),
    "duplicate_file_name": Rule(
        _TOLD, "images that name the file of another", "list each image file once"
    ),
    "no_annotations": Rule(
        _TOLD,
        "files without any annotation",
        "every image counts as a negative: is this the right file?",
    ),
    "depth_in_doubt": Rule(
        "taken for a dark image of all 16 bits",
        "images whose depth is in doubt",
        "where fewer bits are used, scale them to all 16, or say so (TIFF's MaxSampleValue, PNG's "
        "sBIT)",
    ),
    "image_in_both_splits": Rule(
        _TOLD,
        "images in train and val",
        "scores on images that were trained on say little: take them out of one split",
    ),
}


@dataclass(slots=True)
class Fault:
    """How often a rule was met, and the first few cases by name."""

    rule: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Faults:
    """The faults met in a file, under a policy."""

    def __init__(self, policy: str = "mend") -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy is one of {', '.join(POLICIES)}, not {policy!r}")
        self.policy = policy
        self._met: dict[str, Fault] = {}

    @property
    def mends(self) -> bool:
        return self.policy == "mend"

    def note(self, name: str, what: str, count: int = 1) -> None:
        """Count a fault; `what` names the file, the entry, the field and the value.

        Raises FormatError where the policy refuses it.
        """
        rule = RULES[name]
        if self.mends and rule.mended is None:
            return
        if not self.mends and rule.kept is None:
            raise FormatError(
                f"{what}; {rule.remedy}, or have the file mended "
                f"(policy='mend', --mend: {rule.mended})"
            )
        fault = self._met.setdefault(name, Fault(name))
        fault.count += count
        if len(fault.examples) < NUM_EXAMPLES:
            fault.examples.append(what)

    def note_rows(self, name: str, rows: Iterable[int], what: Callable[[int], str]) -> None:
        """Count a fault of every row; `what` names a row."""
        rows = list(rows)
        for row in rows[:NUM_EXAMPLES]:
            self.note(name, what(row))
        if len(rows) > NUM_EXAMPLES:
            self.note(name, "", len(rows) - NUM_EXAMPLES)

    def notes(self) -> dict[str, int]:
        """What was scored as it stands, in words, and how often; empty under 'mend'."""
        notes: dict[str, int] = {}
        for fault in self._met.values():
            rule = RULES[fault.rule]
            text = f"{fault.rule} ({rule.mended})" if self.mends else str(rule.kept)
            notes[text] = notes.get(text, 0) + fault.count
        return notes

    def summary(self) -> list[dict[str, Any]]:
        """The faults as plain JSON values, in the order they were first met."""
        return [
            {
                "rule": fault.rule,
                "action": RULES[fault.rule].mended,
                "count": fault.count,
                "remedy": RULES[fault.rule].remedy,
                "examples": list(fault.examples),
            }
            for fault in self._met.values()
        ]

    def log(self) -> None:
        """One warning for each rule met, with its first example."""
        for fault in self._met.values():
            rule = RULES[fault.rule]
            logger.warning(
                "%s %d x %s, first: %s; remedy: %s",
                rule.mended,
                fault.count,
                fault.rule,
                fault.examples[0],
                rule.remedy,
            )


def shown(value: object) -> str:
    """A value as messages repeat it: cut where it is long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text)} characters)"
