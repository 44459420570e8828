"""Two processes that share a batch do what one does with all of it."""

import copy

import pytest
import timm
import torch
from in_processes import in_processes
from timm.layers import BatchNormAct2d
from torch import nn

import detnet  # noqa: F401  (registers the zoo with timm)
from ablations.runtime import Runtime
from ablations.training.losses import LossReader, NonFiniteLossError
from ablations.training.parallel import align, parallel
from detnet.detection import DETECTORS, collate
from detnet.processes import mean_count, own_rows

CPU = torch.device("cpu")
SMALL = {
    "faster_rcnn": {"box_head_channels": 32, "num_sampled_rois": 16, "num_sampled_anchors": 24},
    "mask_rcnn": {
        "box_head_channels": 32, "num_sampled_rois": 16, "num_sampled_anchors": 24,
        "mask_head_channels": 16,
    },
    "retinanet": {},
}  # fmt: skip


def example(image_id: int, num_objects: int):
    random = torch.Generator().manual_seed(image_id)
    corner = torch.rand(num_objects, 2, generator=random) * 24
    size = 8 + torch.rand(num_objects, 2, generator=random) * 24
    masks = torch.zeros(num_objects, 64, 64, dtype=torch.uint8)
    boxes = torch.cat([corner, corner + size], dim=1)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    target = {
        "image_id": image_id,
        "boxes": boxes,
        "labels": torch.randint(1, 4, (num_objects,), generator=random),
        "masks": masks,
    }
    return torch.randint(0, 256, (3, 64, 64), generator=random, dtype=torch.uint8), target


# Unlike in how many objects there are to sample, so that the processes' means are no means of all
EXAMPLES = [example(1, 0), example(2, 1), example(3, 6), example(4, 8)]


def detector(name: str) -> nn.Module:
    torch.manual_seed(0)
    body = timm.create_model("detnet_atto", features_only=True)
    model = DETECTORS[name](channels=16, **SMALL[name]).build(body, num_classes=3)
    for module in model.modules():  # or the residual branches would begin as nothing
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.train()


def step(model: nn.Module, network: nn.Module, examples):
    """The losses and the gradients of a step, by name."""
    torch.manual_seed(7)
    losses = network(collate(examples))
    sum(losses.values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


@pytest.mark.parametrize("name", DETECTORS)
def test_two_processes_give_the_gradients_of_one_with_both_batches(name):
    alone = detector(name)
    losses, gradients = step(alone, alone, EXAMPLES)

    def share(rank):
        model, runtime = detector(name), Runtime(CPU, rank, 2)
        network = parallel(model, runtime, synchronized=True)
        own, found = step(model, network, EXAMPLES[2 * rank : 2 * rank + 2])
        return {key: runtime.mean(loss) for key, loss in own.items()}, found, model.state_dict()

    for found_losses, found, state in in_processes(share):
        torch.testing.assert_close(found_losses, losses, rtol=1e-5, atol=0)
        assert found.keys() == gradients.keys()
        for key, gradient in gradients.items():
            # Sums over the batch are added in another order
            least = 1e-4 * float(gradient.abs().max()) + 1e-8
            torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=least)
        torch.testing.assert_close(state, dict(alone.state_dict()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d, BatchNormAct2d])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_synchronized_batch_norm_is_one_over_the_whole_batch(layer, momentum):
    torch.manual_seed(1)
    images, weights = 3 + 2 * torch.randn(6, 5, 4, 3), torch.randn(6, 5, 4, 3)
    alone = layer(5)
    alone.momentum = momentum
    nn.init.uniform_(alone.weight), nn.init.uniform_(alone.bias)

    def normed(norm, network, part):
        given = images[part].requires_grad_()
        for _ in range(2):
            (network(given) * weights[part]).sum().backward()
        return given.grad, norm.state_dict(), norm.eval()(images[part]).detach()

    def share(rank):
        norm = nn.Sequential(copy.deepcopy(alone))
        network = parallel(norm, Runtime(CPU, rank, 2), synchronized=True)
        return normed(norm[0], network, slice(rank * 3, rank * 3 + 3))

    answers = in_processes(share)
    gradient, state, out = normed(alone, alone, slice(0, 6))
    for rank, answer in enumerate(answers):
        part = slice(rank * 3, rank * 3 + 3)
        torch.testing.assert_close(answer[0], gradient[part], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(answer[1], state)
        torch.testing.assert_close(answer[2], out[part], rtol=1e-4, atol=1e-5)


def test_batch_norms_that_are_not_synchronized_end_as_the_main_process_has_them():
    def share(rank):
        model, runtime = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), Runtime(CPU, rank, 2)
        network = parallel(model, runtime, synchronized=False)
        network(torch.randn(2, 3, 4, 4) + rank).sum().backward()
        before = model[1].running_mean.clone()
        align(model, runtime)
        return before, model[1].running_mean

    (main_before, main_after), (before, after) = in_processes(share)
    assert not torch.equal(main_before, before)
    assert torch.equal(main_after, main_before)
    assert torch.equal(after, main_before)


def test_each_process_draws_the_random_numbers_that_its_rows_have_in_one():
    def drawn(_=0):
        torch.manual_seed(3)
        return own_rows(lambda num: torch.rand(num, 4), 2 if _ is None else 1)

    parts = in_processes(drawn)
    assert torch.equal(torch.cat(parts), drawn(None))


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 5)])
def test_a_count_is_shared_so_that_the_mean_of_the_processes_is_that_of_all(counts):
    shares = in_processes(lambda rank: mean_count(torch.tensor(counts[rank])))
    total = max(sum(counts), 1)
    assert [float(share) for share in shares] == [total / 2, total / 2]


def test_what_processes_tell_each_other():
    def told(rank):
        runtime = Runtime(CPU, rank, 2)
        return runtime.all_gather(rank), runtime.gather(rank), runtime.broadcast(f"of {rank}")

    assert in_processes(told) == [([0, 1], [0, 1], "of 0"), ([0, 1], [], "of 0")]


def test_a_loss_that_is_not_finite_in_one_process_is_told_by_all_with_all_images():
    def train(rank):
        runtime = Runtime(CPU, rank, 2)
        reader = LossReader(lambda step, values: None, runtime)
        loss = torch.tensor(float("nan") if rank == 1 else 1.0)
        told = runtime.all_gather([10 + rank])
        reader.add(0, {"loss_line": loss}, [image_id for ids in told for image_id in ids])
        with pytest.raises(NonFiniteLossError, match="images 10, 11"):
            reader.finish()

    in_processes(train)
