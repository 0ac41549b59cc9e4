"""NBSP without a Learner: networks stepped by given gradients, and scores whose masks are known by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from rllib_nbsp.methods.agent import Agent, Batch, VisitData
from rllib_nbsp.methods.nbsp import NBSPSettings, NeuronLevelBalance
from rllib_nbsp.nn.networks import NETWORKS, Network
from rllib_nbsp.nn.neurons import LayerStatistics, NeuronScores
from rllib_nbsp.settings import ReplaySettings
from tests.tiny import layer_with, visit

HIDDEN = (4, 3)
LR = 0.01

Gradients = dict[str, list[Tensor]]


def adam(eps: float = 1e-8) -> Callable[[Iterable[Tensor]], Optimizer]:
    """What makes an Adam of the networks' parameters."""
    return lambda params: Adam(params, lr=LR, eps=eps, fused=True)


def sgd(params: Iterable[Tensor]) -> Optimizer:
    """Plain gradient descent: a step is the gradient."""
    return SGD(params, lr=1.0)


class Bench:
    """The method on three double-precision networks that are stepped by given gradients, without a Learner."""

    def __init__(
        self,
        keys: Mapping[str, Any] | None = None,
        *,
        optimizer: Callable[[Iterable[Tensor]], Optimizer] = sgd,
        replay: ReplaySettings | None = None,
        hidden: Sequence[int] = HIDDEN,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        networks = {
            name: Network((2,), hidden, 2, activation="relu", generator=generator).double() for name in NETWORKS
        }
        log_alpha = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.agent = Agent(
            networks=networks,
            targets={name: copy.deepcopy(networks[name]) for name in ("qf", "qf_twin")},
            optimizers={
                **{name: optimizer(net.parameters()) for name, net in networks.items()},
                "alpha": optimizer([log_alpha]),
            },
            log_alpha=log_alpha,
            generator=torch.Generator().manual_seed(seed),
            device=torch.device("cpu"),
            act_dim=1,
            sac_losses=lambda batch: {},
        )
        self.method = NeuronLevelBalance(NBSPSettings(**(keys or {})), self.agent, replay or ReplaySettings())
        self._gradients = torch.Generator().manual_seed(seed + 1)

    def random_gradients(self, names: Sequence[str] = NETWORKS) -> Gradients:
        """Normal noise; a Bench of the same seed draws the same."""
        return {
            name: [
                torch.randn(p.shape, generator=self._gradients, dtype=p.dtype)
                for p in self.agent.networks[name].parameters()
            ]
            for name in names
        }

    def ones(self) -> Gradients:
        return {name: [torch.ones_like(p) for p in net.parameters()] for name, net in self.agent.networks.items()}

    def step(self, gradients: Gradients | None = None, *, from_prior: bool = False) -> None:
        """One update: the method's hooks around the optimizers' step, as in the Learner."""
        for name, table in (gradients or self.random_gradients()).items():
            for param, gradient in zip(self.agent.networks[name].parameters(), table, strict=True):
                param.grad = gradient.clone()
        self.agent.log_alpha.grad = torch.ones_like(self.agent.log_alpha)
        empty = torch.empty(0)
        batch = Batch(empty, empty, empty, empty, empty, empty, torch.tensor([from_prior]), of_prior=from_prior)
        self.method.transform_gradients(batch)
        for optimizer in self.agent.optimizers.values():
            optimizer.step()
        self.method.after_step(batch)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def visit(self, number: int, scores: NeuronScores) -> None:
        """The end of that visit and the start of the next one."""
        data = VisitData(visit(number), scores=scores)
        self.method.on_visit_end(visit(number), data)
        self.method.on_visit_start(visit(min(number + 1, 4)), data)

    def weights(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value.clone()
            for name, net in self.agent.networks.items()
            for key, value in net.state_dict().items()
        }

    def brake(self) -> dict[str, Tensor]:
        """The factor on every single weight, seen from outside: the length of an SGD step on a gradient of ones."""
        assert isinstance(self.agent.optimizers["policy"], SGD)
        before = self.weights()
        self.step(self.ones())
        return {name: before[name] - value for name, value in self.weights().items()}


def scores_from(layers: Mapping[str, Sequence[Sequence[float]]], label_rate: float = 0.5) -> NeuronScores:
    """Scores with these accuracies (Eq. 3) per network and hidden layer."""
    return NeuronScores(
        {name: [layer_with(accuracy) for accuracy in table] for name, table in layers.items()}, label_rate, 1000
    )


def same_scores(*layers: Sequence[float]) -> NeuronScores:
    """The same accuracies in all three networks."""
    return scores_from(dict.fromkeys(NETWORKS, layers))


# Accuracies of 4 + 3 neurons. Scores: 0.9 0.6 0.8 0.5 | 0.7 0.95 0.5, so that the top two of seven are the second
# layer's neuron 1 and the first layer's neuron 0: masks 0.2 (1 - 0.95) = 0.01 and 0.2 (1 - 0.9) = 0.02.
FIRST = ([0.9, 0.6, 0.2, 0.5], [0.7, 0.95, 0.5])
TWO_OF_SEVEN = {"skill_frac": 0.3}
FIRST_MASKS = ([0.02, 1.0, 1.0, 1.0], [1.0, 0.01, 1.0])
# Scores 0.5 0.9 0.5 0.5 | 0.5 0.5 0.8: masks 0.02 and 0.04.
SECOND = ([0.5, 0.1, 0.5, 0.5], [0.5, 0.5, 0.8])
SECOND_MASKS = ([1.0, 0.02, 1.0, 1.0], [1.0, 1.0, 0.04])


def masks_of(bench: Bench, network: str = "policy") -> tuple[list[float], ...]:
    """A network's masks, layer by layer."""
    return tuple([round(value, 6) for value in mask.tolist()] for mask in bench.method.masks[network])


def moments(bench: Bench, name: str = "qf") -> dict[str, tuple[Tensor, Tensor]]:
    """Adam's two moments of a network's parameters, by name."""
    state = bench.agent.optimizers[name].state
    return {
        key: (state[param]["exp_avg"].clone(), state[param]["exp_avg_sq"].clone())
        for key, param in bench.agent.networks[name].named_parameters()
    }


def statistics(counts: Sequence[Sequence[int]], mean_abs: Sequence[float]) -> LayerStatistics:
    """Statistics of a layer with these counts and mean activities."""
    layer = layer_with([0.5] * len(counts))
    return LayerStatistics(
        **{
            **vars(layer),
            "counts": torch.tensor(counts),
            "mean_abs_activation": torch.tensor(mean_abs, dtype=torch.float64),
        }
    )


# 100 steps, 90 of them with the goal. Cells: (above, goal), (above, not), (not above, goal), (neither).
#   neuron   counts           Acc    Score   balanced accuracy              E|h|   dormancy
#   0         0  0 90 10      0.10   0.90    (0 + 1) / 2 = 0.5              0      0       never above: constant
#   1        80  5 10  5      0.85   0.85    (8/9 + 1/2) / 2 = 0.694        1      0.8
#   2        45  0 45 10      0.55   0.55    (1/2 + 1) / 2 = 0.75           1.5    1.2
#   3        12 10 78  0      0.12   0.88    (2/15 + 0) / 2 = 0.067 -> 0.933  2.5    2
UNBALANCED = ([[0, 0, 90, 10], [80, 5, 10, 5], [45, 0, 45, 10], [12, 10, 78, 0]], [0.0, 1.0, 1.5, 2.5])
