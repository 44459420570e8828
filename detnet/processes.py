"""A training step that several processes share, each with its rows of the batch.

What a step asks of the others so that all together do what one process would with the whole batch.
A process alone, or one that has not joined others through `torch.distributed`, is the whole.
"""

from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor


def rank_and_number() -> tuple[int, int]:
    """The place of this process among those that share a step, and how many they are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def own_rows(draw: Callable[[int], Tensor], num_rows: int) -> Tensor:
    """The rows of this process of what `draw(number of rows)` gives for the rows of all.

    With equal seeds in every process each row gets the random numbers it would have had in one.
    """
    rank, number = rank_and_number()
    return draw(number * num_rows)[rank * num_rows : (rank + 1) * num_rows]


def mean_count(count: Tensor) -> Tensor:
    """What to divide a sum by whose mean over the processes is to be the mean over all they count.

    `count` () is this process's number; all together count as one at least.
    """
    _, number = rank_and_number()
    total = count.detach().float()
    if number > 1:
        dist.all_reduce(total)
    return total.clamp(min=1) / number
