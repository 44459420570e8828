"""What the paper and its reproductions published, as one tidy frame.

`published.csv` has a row per figure: table of the paper (empty for reproductions), variant (the
zoo's name where it is one of the zoo), setting (`pretrained`, `scratch`, or empty where the source
does not say), detector, data, metric, value and source. AP, AR and errors are percent, GMACs are
the paper's "FLOPs" in billions. A figure that is not known has no row; a network that stands in a
table, and of which no figure is known, has rows without a value.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

PUBLISHED_CSV = Path(__file__).with_name("published.csv")
PAPER_TABLES = tuple(f"table{number}" for number in range(1, 9))
"""What a table may give as `published`: its counterpart in the paper."""
CIRCUMSTANCES = ("source", "setting", "detector", "data")

_COCO_AP = r"(mask_)?AP(50|75|_small|_medium|_large)?"
# the detectors this project trains, as the sources call them; "" where the source names none
_DETECTORS = ("FPN", "FPN (as in Mask R-CNN)", "Mask R-CNN", "RetinaNet", "")
# Tables 3 to 6 repeat detectors of Table 1
_REPEATED = ("3", "4", "5", "6")
_OF_BACKBONES = ("top1_error", "GMACs")


def published() -> pd.DataFrame:
    """All published figures; texts are "" where the source does not say."""
    texts = ("table", "variant", "setting", "detector", "data", "metric", "source")
    return pd.read_csv(
        PUBLISHED_CSV,
        dtype=dict.fromkeys(texts, str) | {"value": float},
        keep_default_na=False,
        na_values={"value": [""]},
    )


def detection_results(variant: str) -> pd.DataFrame:
    """What is published for a variant in the detectors trained here: a row per source.

    Columns are source, setting, detector, data and COCO's six names of AP (`mask_` before those of
    masks); a figure that is not known is NaN. The frame is empty where nothing is known.
    """
    known = published()
    chosen = known[
        (known.variant == variant)
        & known.metric.str.fullmatch(_COCO_AP)
        & known.detector.isin(_DETECTORS)
        & ~known.table.isin(_REPEATED)
    ]
    return chosen.pivot(index=list(CIRCUMSTANCES), columns="metric", values="value").reset_index()


def paper_table(name: str) -> pd.DataFrame:
    """A table of the paper, `table1` to `table8`: a row per network and detector, in its order.

    Columns are variant, source, setting, detector, data and the table's metrics, those of the
    backbone alone (`top1_error`, `GMACs`) in every row of it. Raises ValueError for another name.
    """
    if name not in PAPER_TABLES:
        raise ValueError(
            f"published: {name!r} is no table of the paper: give one of {', '.join(PAPER_TABLES)}"
        )
    known = published()
    rows = known[known.table == name.removeprefix("table")]
    keys = ["variant", *CIRCUMSTANCES]
    of_backbone = rows.metric.isin(_OF_BACKBONES)
    order = rows[~of_backbone][keys].drop_duplicates()
    wide = rows[~of_backbone].pivot(index=keys, columns="metric", values="value").reset_index()
    alone = rows[of_backbone].pivot(index="variant", columns="metric", values="value")
    return order.merge(wide, on=keys).merge(alone.reset_index(), on="variant", how="left")


def published_errors() -> pd.DataFrame:
    """Top-1 errors of networks alone, in percent: variant, data, value and source."""
    known = published()
    rows = known[(known.metric == "top1_error") & known.value.notna()]
    return rows[["variant", "data", "value", "source"]]


def beside(variants: Sequence[str], table: str | None = None) -> pd.DataFrame:
    """What stands beside measured variants, `variant` first; empty where nothing is known.

    With the name of a table of the paper, that table; else `detection_results` of each variant.
    """
    if table is not None:
        return paper_table(table)
    in_print = set(published().variant)
    frames = {name: detection_results(name) for name in variants if name in in_print}
    known = {name: frame for name, frame in frames.items() if not frame.empty}
    if not known:
        return pd.DataFrame(columns=["variant", *CIRCUMSTANCES])
    return pd.concat(known, names=["variant"]).reset_index("variant").reset_index(drop=True)


def has_iou_type(frame: pd.DataFrame, prefix: str) -> bool:
    """Whether a frame of `beside` has AP or AR of the IoU type whose metrics have this prefix."""
    return any(re.match(rf"{prefix}A[PR]", str(column)) for column in frame.columns)
