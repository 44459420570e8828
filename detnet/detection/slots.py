"""Slots of RoIs and of objects, some empty, which are left out where counting costs nothing."""

from collections.abc import Callable

from torch import Tensor

COUNTED_ON = ("cpu",)
"""Devices that know how many slots are filled without making the host wait."""


def of_filled(answer: Callable[[Tensor | None], Tensor], is_filled: Tensor) -> Tensor:
    """What `answer` gives for the filled slots (B, S): (B * S, ...), zeros for empty ones.

    It is asked for the places (R,) of those among the B * S, or for all slots with None, as every
    shape is known in advance then.
    """
    if is_filled.device.type not in COUNTED_ON:
        return answer(None)
    places = is_filled.flatten().nonzero().squeeze(1)
    found = answer(places)
    return found.new_zeros(is_filled.numel(), *found.shape[1:]).index_copy(0, places, found)
