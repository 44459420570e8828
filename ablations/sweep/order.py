"""In which order a sweep starts its runs."""

import math

from ablations.planning import PlannedRun, backbone_cost

ORDERS = ("asked", "cheapest", "dearest")
"""As the command line asks for them, or by `training_work`, the least or the most first."""

_COUNTED_AT = 224 * 224  # pixels, of backbone_cost


def training_work(run: PlannedRun) -> float:
    """Multiply-adds of the backbone, forward, over all images that training shows it.

    Heads and losses are not counted: it is for comparing runs.
    """
    protocol = run.config.protocol
    pixels = math.prod(protocol.largest_image)
    images = protocol.num_steps * protocol.batch_size
    return backbone_cost(run.config)["macs"] * pixels / _COUNTED_AT * images
