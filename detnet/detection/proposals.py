"""The proposal network of Faster R-CNN (arXiv 1506.01497) on all levels of all images at once."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detnet.detection import boxes as box
from detnet.detection.anchors import Anchors
from detnet.detection.assignment import assign, sample
from detnet.detection.batch import Targets
from detnet.detection.nms import best_of
from detnet.processes import mean_count

OBJECT_IOU, BACKGROUND_IOU = 0.7, 0.3  # Sec. 3.1.2
OBJECT_FRACTION = 0.5
NMS_IOU = 0.7  # Sec. 3.3
MIN_SIZE = 1e-3  # pixels; torchvision's
SMOOTH_L1_BETA = 1 / 9  # Detectron's


class Outputs(NamedTuple):
    """What a head says of the anchors of each level: (B, A, K) logits and (B, A, 4) deltas."""

    logits: list[Tensor]
    deltas: list[Tensor]


class Proposals(NamedTuple):
    """Boxes (B, P, 4) of each image, best first, and which of them count (B, P)."""

    boxes: Tensor
    counts: Tensor


class ProposalNetwork(nn.Module):
    """One objectness and one box for every anchor; the best of them after suppression.

    `num_before_nms` is per level, `num_after_nms` per image, each (in training, else).
    """

    def __init__(
        self,
        anchors: Anchors,
        head: nn.Module,
        num_before_nms: tuple[int, int],
        num_after_nms: tuple[int, int],
        num_samples: int,
    ) -> None:
        super().__init__()
        self.anchor_generator = anchors
        self.head = head
        self.num_before_nms = num_before_nms
        self.num_after_nms = num_after_nms
        self.num_samples = num_samples

    def outputs(self, maps: dict[str, Tensor]) -> Outputs:
        """The head's answers, one for each anchor."""
        logits, deltas = self.head(list(maps.values()))
        return Outputs([by_anchor(x, 1) for x in logits], [by_anchor(x, 4) for x in deltas])

    @torch.no_grad()
    def propose(self, outputs: Outputs, anchors: list[Tensor], sizes: Tensor) -> Proposals:
        """The best boxes of each image within its size (B, 2)."""
        most = self.num_before_nms[not self.training]
        boxes, scores = [], []
        for logits, deltas, level in zip(*outputs, anchors, strict=True):
            best, index = logits.squeeze(-1).topk(min(most, len(level)), dim=1)
            scores.append(best.sigmoid())
            boxes.append(box.decode(box.take(deltas, index), box.take(level[None], index)))
        level_of = torch.cat([torch.full_like(s, k) for k, s in enumerate(scores)], dim=1)
        all_boxes = box.clip(torch.cat(boxes, dim=1), sizes)
        index, counts = best_of(
            all_boxes,
            torch.cat(scores, dim=1),
            level_of.long(),
            box.is_larger(all_boxes, MIN_SIZE),
            NMS_IOU,
            self.num_after_nms[not self.training],
        )
        best_boxes = box.take(all_boxes, index)
        return Proposals(torch.where(counts[..., None], best_boxes, 0.0), counts)

    def losses(
        self, outputs: Outputs, anchors: list[Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        """Of objectness and boxes, over the sampled anchors."""
        references = torch.cat(anchors)[None]
        assigned = assign(
            references, targets,
            object_iou=OBJECT_IOU, background_iou=BACKGROUND_IOU, best_counts=True,
        )  # fmt: skip
        num_objects = int(self.num_samples * OBJECT_FRACTION)
        index, counts = sample(assigned.label, self.num_samples, num_objects)
        weight = counts / mean_count(counts.sum())
        label = (assigned.label.gather(1, index) > 0).float()
        logits = torch.cat(outputs.logits, dim=1).squeeze(-1).gather(1, index)
        loss_objectness = F.binary_cross_entropy_with_logits(logits, label, weight, reduction="sum")
        # The objects stand first
        index, weight, label = (x[:, :num_objects] for x in (index, weight, label))
        drawn = box.take(references, index)
        objects = box.take(targets.boxes, assigned.matched.gather(1, index))
        deltas = box.take(torch.cat(outputs.deltas, dim=1), index)
        loss_box = box_loss(deltas, objects, drawn, weight * label, beta=SMOOTH_L1_BETA)
        return {"loss_objectness": loss_objectness, "loss_rpn_box_reg": loss_box}


def box_loss(
    deltas: Tensor,
    objects: Tensor,
    references: Tensor,
    weight: Tensor,
    *,
    beta: float,
    coder_weights: box.Weights = (1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """Weighted sum of the (smooth, from `beta` > 0 on) L1 distances to what makes the objects.

    `weight` (B, K) is 0 where there is no object.
    """
    # Of a padded object no logarithm can be taken: there a box is to stay what it is
    objects = torch.where(weight[..., None] > 0, objects, references)
    wanted = box.encode(objects, references, coder_weights)
    wanted = torch.where(weight[..., None] > 0, wanted, 0.0)  # padded boxes have no size either
    distance = F.smooth_l1_loss(deltas, wanted, beta=beta, reduction="none")
    return (distance.sum(dim=-1) * weight).sum()


def by_anchor(x: Tensor, num: int) -> Tensor:
    """(B, A * num, H, W) -> (B, H * W * A, num)."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, num)
