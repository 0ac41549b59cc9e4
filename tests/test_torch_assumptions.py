"""What this code takes for granted of torch beyond its documented, stable API: a later release that differs fails here.

How an update is recorded and replayed is held by `tests/sac/test_graphs.py`, bit for bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rllib_nbsp.sac.tape import CPURecording


def test_lists_of_tensors_are_moved_added_scaled_and_copied_in_one_call() -> None:
    # 1 + 0.25 (5 - 1) = 2, and -2 + 0.25 (2 - -2) = -1
    ours, theirs = [torch.tensor([1.0]), torch.tensor([-2.0])], [torch.tensor([5.0]), torch.tensor([2.0])]
    torch._foreach_lerp_(ours, theirs, 0.25)
    assert [float(one) for one in ours] == [2.0, -1.0]
    assert [float(one) for one in torch._foreach_add(ours, theirs)] == [7.0, 1.0]
    torch._foreach_sub_(ours, torch._foreach_mul(theirs, torch.tensor(2.0)))
    assert [float(one) for one in ours] == [-8.0, -5.0]
    torch._foreach_copy_(ours, theirs)
    assert [float(one) for one in ours] == [5.0, 2.0]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_fused_adam_is_adam_and_keeps_its_moments_under_the_names_that_are_reset(weight_decay: float) -> None:
    start = torch.linspace(-1.0, 1.0, 7)
    fused, plain = (start.clone().requires_grad_() for _ in range(2))
    options = {"lr": 0.01, "eps": 1e-8, "weight_decay": weight_decay}
    optimizers = [torch.optim.Adam([fused], fused=True, **options), torch.optim.Adam([plain], fused=False, **options)]
    for _ in range(3):
        for weight, optimizer in zip((fused, plain), optimizers, strict=True):
            weight.grad = 2.0 * weight.detach() - 0.3
            optimizer.step()
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-7)
    assert set(optimizers[0].state[fused]) == {"step", "exp_avg", "exp_avg_sq"}


def test_what_torch_is_asked_to_do_can_be_heard_and_asked_again_below_python() -> None:
    heard = []

    class Listening(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            heard.append((function, args, kwargs or {}))
            return function(*args, **(kwargs or {}))

    weight, generator = torch.ones(2), torch.Generator()
    with Listening():
        weight.add_(1.0)
        torch.randn(2, generator=generator)
        weight.exp()
    (add, args, _), (draw, _, drawn_with), (exp, _, _) = heard
    assert add._schema.is_mutable and not exp._schema.is_mutable
    add._op(*args)
    assert weight.tolist() == [3.0, 3.0]
    assert torch.Tag.nondeterministic_seeded in draw.tags and torch.Tag.nondeterministic_seeded not in exp.tags
    assert drawn_with["generator"]._cdata == generator._cdata
    assert "out" in exp.overloadpacket.overloads()
    assert [argument.name for argument in exp.overloadpacket.out._schema.arguments if argument.is_out] == ["out"]


@pytest.mark.parametrize(
    "read",
    [
        lambda values: values[0].item(),
        lambda values: bool(values[0] > 0),
        lambda values: values.nonzero(),
        lambda values: values.unique(),
        lambda values: values.unique(dim=0),
        lambda values: values.masked_select(values > 0),
        lambda values: torch.equal(values, values + 1),
    ],
    ids=["item", "bool", "nonzero", "unique", "unique_dim", "masked_select", "equal"],
)
def test_a_value_that_python_acts_on_is_heard(read: Callable[[torch.Tensor], object]) -> None:
    values = torch.tensor([1.0, -2.0])
    with pytest.raises(RuntimeError, match="the host waits for"):
        CPURecording().record(lambda: read(values), [])


def test_a_cuda_graph_is_captured_with_a_pool_on_a_stream_and_by_thread() -> None:
    assert {"pool", "stream", "capture_error_mode"} <= set(inspect.signature(torch.cuda.graph).parameters)
    assert "capturable" in inspect.signature(torch.optim.Adam).parameters
