"""A state as bytes: every tensor of every type comes back, and what follows from a buffer follows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rllib_nbsp.nn.flat import flatten, to_host, unflatten
from tests.tiny import assert_same


class Mixed(nn.Module):
    """Sizes at which a float would begin at an odd byte, were the bytes in the order of the names."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("bytes", torch.randint(256, (3,), generator=generator).to(torch.uint8))
        self.register_buffer("flags", torch.randint(2, (5, 1), generator=generator).to(torch.bool))
        self.weight = nn.Parameter(torch.randn(2, 3, generator=generator))
        self.register_buffer("count", torch.tensor(float(seed)))
        self.register_buffer("rows", torch.randint(-(2**40), 2**40, (3,), generator=generator))
        self.register_buffer("nothing", torch.zeros(0, 4))
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "derived", int(module.count)))


def test_a_state_comes_back_to_the_last_bit_in_place():
    source, target = Mixed(3), Mixed(4)
    addresses = [tensor.data_ptr() for tensor in target.state_dict().values()]
    flat = flatten(source)
    assert flat.dtype == torch.uint8
    assert len(flat) == 3 + 5 + 6 * 4 + 4 + 3 * 8
    unflatten(flat, target)
    assert_same(dict(target.state_dict()), dict(source.state_dict()))
    assert [tensor.data_ptr() for tensor in target.state_dict().values()] == addresses
    assert target.derived == 3


def test_weights_that_do_not_lie_in_a_row_are_put_in_one():
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    source.weight = nn.Parameter(source.weight.detach().t().contiguous().t())
    assert not source.weight.is_contiguous()
    unflatten(flatten(source), target)
    assert_same(dict(target.state_dict()), dict(source.state_dict()))


def test_bytes_of_another_module_are_refused():
    with pytest.raises(ValueError, match="the flat state has 32 bytes; the module's own has 36"):
        unflatten(flatten(nn.Linear(3, 2)), nn.Linear(2, 3))


def test_on_a_cpu_nothing_is_copied_for_the_host():
    flat = flatten(Mixed(3))
    assert to_host(flat) is flat


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_state_reaches_the_host_and_another_module():
    source, target = Mixed(3), Mixed(4)
    unflatten(to_host(flatten(source.cuda())), target)
    assert_same(dict(target.state_dict()), dict(source.cpu().state_dict()))
