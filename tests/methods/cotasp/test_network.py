"""CoTASP's prompted pass: which units take part in a task, and which weights their use freezes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rllib_nbsp.methods.cotasp import PromptedNetwork, masked_norm, open_weights, step


def prompted(seed: int = 0, **sizes: Any) -> PromptedNetwork:
    generator = torch.Generator().manual_seed(seed)
    net = PromptedNetwork(
        sizes.get("in_shape", (3,)),
        sizes.get("hidden", (5, 4)),
        2,
        tasks=2,
        visits=3,
        activation="relu",
        conv=sizes.get("conv", ()),
        generator=generator,
    )
    with torch.no_grad():
        for prompts in net.prompts:
            prompts.copy_(torch.randn(prompts.shape, generator=generator))
            prompts[:, 0] = 0.5  # so that no row is empty
    net.row_of.copy_(torch.tensor([2, 0, 1]))
    return net


def test_phi_is_1_iff_the_coefficient_is_above_0_and_passes_gradient_between_0_and_1_alone():
    a = torch.tensor([-0.5, 0.0, 1e-6, 0.5, 0.999, 1.0, 3.0], requires_grad=True)
    phi = step(a)
    assert phi.tolist() == [0, 0, 1, 1, 1, 1, 1]
    (phi * torch.arange(1.0, 8.0)).sum().backward()
    assert a.grad.tolist() == [0, 0, 3, 4, 5, 0, 0]


def test_masked_norm_by_hand():
    # On: 1 and 5, mean 3, variance 4. The unit that is off counts for nothing and stays 0.
    z, phi = torch.tensor([[1.0, 0.0, 5.0]]), torch.tensor([1.0, 0.0, 1.0])
    assert torch.allclose(masked_norm(z, phi), torch.tensor([[-1.0, 0.0, 1.0]]))
    # A channel with the places 1 and 5, and one that is off.
    image = torch.tensor([[[[1.0, 5.0]], [[0.0, 0.0]]]])
    expected = torch.tensor([[[[-1.0, 1.0]], [[0.0, 0.0]]]])
    assert torch.allclose(masked_norm(image, torch.tensor([1.0, 0.0]).reshape(2, 1, 1)), expected)
    assert torch.equal(masked_norm(torch.zeros(1, 3), torch.zeros(3)), torch.zeros(1, 3))


def test_a_pass_is_that_of_the_active_units_alone():
    net, x = prompted(), torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    for task, row in ((0, 2), (1, 0), (None, 1)):
        on = [(prompts[row] > 0).nonzero().squeeze(1) for prompts in net.prompts]
        (w1, b1), (w2, b2), (w3, b3) = [(layer.weight, layer.bias) for layer in net.layers()]
        z = x @ w1[on[0]].T + b1[on[0]]
        h = torch.tanh((z - z.mean(1, keepdim=True)) / (z.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt())
        h2 = F.leaky_relu(h @ w2[on[1]][:, on[0]].T + b2[on[1]])
        record: list[Tensor] = []
        out = net(x, task=task, record=record)
        assert torch.allclose(out, h2 @ w3[:, on[1]].T + b3, atol=1e-5)
        assert torch.allclose(record[0][:, on[0]], h, atol=1e-5)
        assert [int((layer != 0).any(0).sum()) for layer in record] == [len(units) for units in on]


@pytest.mark.parametrize("conv", [(), [(4, 3, 2), (3, 2, 1)]])
def test_a_task_for_each_row_is_each_rows_own_pass(conv):
    net = prompted(in_shape=(2, 9, 9) if conv else (3,), conv=conv)
    x = torch.randn(8, *((2, 9, 9) if conv else (3,)), generator=torch.Generator().manual_seed(1))
    task = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1])
    record: list[Tensor] = []
    together = net(x, task=task, record=record)
    alone = [net(x[i : i + 1], task=int(task[i])) for i in range(8)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)
    assert not torch.allclose(together, net(x, task=0), atol=1e-3)
    active = [[(prompts[net.row_of[t]] > 0) for t in task] for prompts in net.prompts]
    for hidden, expected in zip(record, active, strict=True):
        assert torch.equal(hidden.flatten(2).any(2) if hidden.dim() == 4 else hidden != 0, torch.stack(expected))


def test_a_frozen_pass_gives_gradients_to_inputs_alone():
    net, x = prompted(), torch.randn(2, 3, requires_grad=True)
    net(x, frozen=True).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in net.parameters())
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_gradient_masks_by_hand():
    net = prompted(hidden=(2, 3))
    allocated = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])]
    masks = [mask.tolist() for _, mask in open_weights(net, allocated, outputs=1)]
    assert masks == [
        [[0, 0, 0], [1, 1, 1]],  # the first layer: rows of units in use
        [0, 1],
        [[0, 1], [1, 1], [0, 1]],  # both ends in use
        [0, 1, 0],
        [[0, 1, 0], [1, 1, 1]],  # the mean's row by its inputs; the log standard deviation's is open
        [0, 1],
    ]


def test_a_channel_in_use_freezes_its_pixels_weights():
    net = prompted(in_shape=(2, 5, 5), conv=[(3, 3, 1)], hidden=(2,))
    masks = [mask for _, mask in open_weights(net, [torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0])], 2)]
    assert masks[0].shape == net.hidden[0].weight.shape
    assert masks[0].flatten(1).unique(dim=1).squeeze(1).tolist() == [1, 0, 1]
    # 3 x 3 pixels of each channel feed the linear layer.
    assert masks[2].tolist() == [[1] * 9 + [0] * 9 + [1] * 9, [1] * 27]
