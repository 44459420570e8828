"""What the paper and its reproductions published, as one tidy frame.

`published.csv` has a row per figure: table of the paper (empty for reproductions), variant (the
zoo's name where it is one of the zoo), setting (`pretrained`, `scratch`, or empty where the source
does not say), detector, data, metric, value and source. AP, AR and errors are percent, GMACs are
the paper's "FLOPs" in billions. A figure that is not known has no row.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

PUBLISHED_CSV = Path(__file__).with_name("published.csv")

_COCO_AP = r"(mask_)?AP(50|75|_small|_medium|_large)?"
# the detectors this project trains, as the sources call them; "" where the source names none
_DETECTORS = ("FPN", "FPN (as in Mask R-CNN)", "Mask R-CNN", "RetinaNet", "")
# Tables 3 and 4 repeat the detectors of Table 1 by IoU threshold
_BY_THRESHOLD = ("3", "4")


def published() -> pd.DataFrame:
    """All published figures; texts are "" where the source does not say."""
    texts = ("table", "variant", "setting", "detector", "data", "metric", "source")
    return pd.read_csv(
        PUBLISHED_CSV,
        dtype=dict.fromkeys(texts, str) | {"value": float},
        keep_default_na=False,
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
        & ~known.table.isin(_BY_THRESHOLD)
    ]
    keys = ["source", "setting", "detector", "data"]
    return chosen.pivot(index=keys, columns="metric", values="value").reset_index()


def beside(variants: Sequence[str]) -> pd.DataFrame:
    """`detection_results` of several variants, `variant` first; empty where nothing is known."""
    frames = {name: detection_results(name) for name in variants}
    known = {name: frame for name, frame in frames.items() if not frame.empty}
    if not known:
        return pd.DataFrame()
    return pd.concat(known, names=["variant"]).reset_index("variant").reset_index(drop=True)
