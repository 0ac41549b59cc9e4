"""Formats of numbers: what is in bfloat16 and what is not, and what a machine does not have."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks.methods import MethodAtWork
from rllib_nbsp.methods import METHODS
from rllib_nbsp.nn.networks import Network
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sac import formats
from rllib_nbsp.sac.actor_critic import build_actor_critic
from rllib_nbsp.sac.update import SACUpdate, adam_of
from rllib_nbsp.settings import TrainingSettings
from tests.tiny import ACTIONS, CHOICES, IMAGES, OBSERVATIONS, build_config, game_transitions, transitions

BF16 = {"autocast": "bf16"}
CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not formats.has_bf16(CPU), reason="this processor has no bfloat16")


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().float()


def test_products_are_in_bfloat16_and_everything_else_is_not():
    net = Network((3,), (5, 4), 2, activation="relu", generator=torch.Generator().manual_seed(0))
    x = torch.randn(7, 3)
    record: list[torch.Tensor] = []
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        out = net(x, record=record)
    expected = x
    for i, layer in enumerate(net.layers()):
        # A bfloat16 product has float32 sums, and its result is rounded once.
        expected = rounded(F.linear(rounded(expected), rounded(layer.weight), rounded(layer.bias)))
        if i < 2:
            expected = F.relu(expected)
            assert record[i].dtype == torch.float32
            assert torch.allclose(record[i], expected, rtol=2**-7, atol=1e-6)
    assert out.dtype == torch.float32 and torch.allclose(out, expected, rtol=2**-7, atol=2e-3)
    assert not torch.equal(out, net(x))


def made(kind: str, **training: object) -> SACUpdate:
    spaces = {"continuous": (OBSERVATIONS, ACTIONS), "discrete": (IMAGES, CHOICES)}[kind]
    config = build_config("sac", training={"actor_lr": 1e-9, "critic_lr": 1e-9, "alpha_lr": 1e-9, **training})
    run = ResolvedRun(config.networks(hidden=[64, 64], conv=[[8, 4, 2], [8, 3, 1]]).settings, spaces)
    module = build_actor_critic(run)
    return SACUpdate(run, module, adam_of(module, run.training), CPU)


@pytest.mark.parametrize(("kind", "rows"), [("continuous", transitions), ("discrete", game_transitions)])
def test_gradients_point_where_those_of_float32_do(kind, rows):
    plain, bf16 = made(kind), made(kind, **BF16)
    columns = {name: torch.from_numpy(column) for name, column in rows(0).items()}
    for update in (plain, bf16):
        update(columns)
    for name, network in plain.agent.networks.items():
        own, other = (
            torch.cat([p.grad.flatten() for p in net.parameters()]) for net in (network, bf16.agent.networks[name])
        )
        assert other.dtype == torch.float32 and not torch.equal(own, other)
        assert F.cosine_similarity(own, other, dim=0) > 0.995


def test_it_acts_in_float32():
    plain, bf16 = made("continuous"), made("continuous", **BF16)
    obs = torch.randn(5, *OBSERVATIONS.shape)
    assert torch.equal(plain.module.act(obs, explore=False), bf16.module.act(obs, explore=False))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_works_with_it(name):
    keys = {"cbp": {"maturity": 10}, "cotasp": {"distill_updates": 4}, "packnet": {"retrain_updates": 4}}.get(name, {})
    worker = MethodAtWork(name, keys, 16, 1000, updates=20, training={"batch_size": 256, **BF16})
    for _ in range(5):
        worker.update()
    for own, weight in worker.learner.agent.networks["policy"].named_parameters():
        assert weight.dtype == torch.float32 and torch.isfinite(weight).all(), own


def test_a_processor_without_it_is_refused(monkeypatch):
    monkeypatch.setattr(formats.platform, "machine", lambda: "x86_64")
    for has in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, has, lambda: False)
    with pytest.raises(ValueError, match="autocast is 'bf16'; this CPU does not calculate in bfloat16"):
        formats.check_formats(TrainingSettings(**BF16), CPU)
    formats.check_formats(TrainingSettings(), CPU)


def test_a_gpu_without_a_format_is_refused_by_name(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce RTX 2080 Ti")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(ValueError, match="NVIDIA GeForce RTX 2080 Ti does not calculate in bfloat16"):
        formats.check_formats(TrainingSettings(**BF16), gpu)
    with pytest.raises(ValueError, match="NVIDIA GeForce RTX 2080 Ti has no TF32"):
        formats.check_formats(TrainingSettings(tf32=True), gpu)
