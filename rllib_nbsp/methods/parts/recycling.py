"""Recycling: a neuron starts afresh, and so does the optimizer's memory of it. What CBP and ReDo share.

A recycled neuron gets new incoming weights from its layer's initial distribution, bias 0, outgoing weights 0, and Adam
moments 0 for all of them. PyTorch's Adam counts the steps of a whole tensor, not of an entry. With that count, moments
that begin at 0 are taken for full averages, and with Adam's usual betas steps are up to 6.6 learning rates long; so the
steps of the entries that began anew are put right after the optimizer: they are those of an Adam that counts for each
entry, at any `eps` and betas. A weight decay is part of the gradient, and so of the moments that the steps come from.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rllib_nbsp.methods.agent import Agent
from rllib_nbsp.methods.parts.braking import rows_of
from rllib_nbsp.nn.networks import FAN_IN_UNIFORM, Network, init_layer

Init = Literal["network", "lecun", "kaiming"]
GAINS: dict[Init, float] = {"lecun": math.sqrt(3.0), "kaiming": math.sqrt(6.0)}
"""Bounds of uniform distributions for ReLU layers, in units of 1/sqrt(fan in), whatever the networks' own is."""

STEP_TOLERANCE = 1e-3
"""An entry is young no more once its own count changes its steps by less than this share."""
LOOK_FOR_GROWN = 100
"""Updates between two searches for such entries."""
ENTRIES = ("index", "correction1", "correction2")


class YoungEntries:
    """Entries of parameters whose Adam moments began anew while the parameters' step count went on.

    Args:
        params: what the optimizer steps, all of it each time.
        optimizer: an Adam.

    Attributes:
        index: places in all the parameters, flattened and joined, ascending, (E,), int64.
        correction1, correction2: 1 - beta^n of each entry's own n, (E,): its moments' share of a full average.
        steps: the parameters' count T.
    """

    def __init__(self, params: Sequence[Tensor], optimizer: Optimizer) -> None:
        self._params, self._optimizer = list(params), optimizer
        self._first = [0, *itertools.accumulate(param.numel() for param in self._params)]
        self.steps = 0
        none = self._params[0].new_empty(0).detach()
        self._set(torch.empty(0, dtype=torch.int64, device=none.device), none, none)

    def __len__(self) -> int:
        return len(self.index)

    def _set(self, index: Tensor, correction1: Tensor, correction2: Tensor) -> None:
        self.index, self.correction1, self.correction2 = index, correction1, correction2
        ends = torch.searchsorted(index, torch.tensor(self._first[1:], device=index.device)).tolist()
        starts = [0, *ends[:-1]]
        self._parts = [
            (param, slice(start, end), index[start:end] - first)
            for param, first, start, end in zip(self._params, self._first, starts, ends, strict=False)
            if end > start
        ]

    def keep(self, which: Tensor) -> None:
        """Let go of the entries that are not in `which`, a bool mask (E,)."""
        self._set(self.index[which], self.correction1[which], self.correction2[which])

    def restart(self, touched: Sequence[Tensor]) -> None:
        """Zero the moments and the step counts of entries.

        Args:
            touched: a bool mask of each parameter, of its shape.
        """
        for param, mask in zip(self._params, touched, strict=True):
            for moment in ("exp_avg", "exp_avg_sq"):
                self._optimizer.state[param][moment].masked_fill_(mask, 0.0)
        self.steps = int(self._optimizer.state[self._params[0]]["step"])
        flat = torch.cat([mask.flatten() for mask in touched])
        self.keep(~flat[self.index])
        new = flat.nonzero().squeeze(1)
        index, order = torch.cat([self.index, new]).sort()
        zeros = self.correction1.new_zeros(len(new))
        corrections = (torch.cat([old, zeros])[order] for old in (self.correction1, self.correction2))
        self._set(index, *corrections)

    def correct_step(self) -> None:
        """Replace the step that Adam has just taken by the one due to each entry's own count."""
        if not len(self):
            return
        group = self._optimizer.param_groups[0]
        (beta1, beta2), eps = group["betas"], group["eps"]
        # An average of ones that begins at 0 is 1 - beta^n, without the cancellation.
        self.correction1.mul_(beta1).add_(1.0 - beta1)
        self.correction2.mul_(beta2).add_(1.0 - beta2)
        mean, root = self._moment("exp_avg"), self._moment("exp_avg_sq").sqrt_()
        steps = self._steps().double()  # the optimizer's own count, which is where the parameters are
        taken = mean / (root / (1.0 - beta2**steps).sqrt() + eps) / (1.0 - beta1**steps)
        due = mean / (root / self.correction2.sqrt() + eps) / self.correction1
        change = group["lr"] * (taken - due)
        for param, part, place in self._parts:
            param.detach().view(-1).index_add_(0, place, change[part])

    def count_step(self) -> bool:
        """Count a step of the parameters; now and then let go of the entries that are grown. Whether any were."""
        self.steps += 1
        if self.steps % LOOK_FOR_GROWN:
            return False
        young = torch.minimum(self.correction1, self.correction2.sqrt()) < 1.0 - STEP_TOLERANCE
        if bool(young.all()):
            return False
        self.keep(young)
        return True

    def _steps(self) -> Tensor:
        """T where the parameters are, a scalar."""
        steps: Tensor = self._optimizer.state[self._params[0]]["step"]
        return steps

    def _moment(self, name: str) -> Tensor:
        state = self._optimizer.state
        return torch.cat([state[param][name].view(-1).index_select(0, place) for param, _, place in self._parts])

    def get_state(self) -> dict[str, Any]:
        """What `set_state` takes."""
        return {"steps": self.steps, **{name: getattr(self, name).cpu().numpy().copy() for name in ENTRIES}}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_state` gave."""
        self.steps = state["steps"]
        self._set(*(torch.tensor(state[name], device=self.index.device) for name in ENTRIES))


class Recycler:
    """Recycles neurons of an agent's networks and looks after their optimizers.

    Args:
        agent: whose networks.
        init: distribution of the new incoming weights; "network": what the run's networks began with.
        mirror_targets: recycle a critic's neurons in its target network too, with the same new weights.

    Attributes:
        recycled: neurons recycled so far.
        changes: how often the set of young entries became another one.
        young: the entries that began anew, per network that has any.
    """

    def __init__(self, agent: Agent, *, init: Init = "network", mirror_targets: bool = False) -> None:
        self.agent = agent
        self.init = init
        self.mirror_targets = mirror_targets
        self.recycled = self.changes = 0
        self.young: dict[str, YoungEntries] = {}

    def on_visit_start(self) -> None:
        """In a fresh optimizer all entries are of one age."""
        self.young = {name: young for name, young in self.young.items() if self.agent.optimizers[name].state}
        self.changes += 1

    @torch.no_grad()
    def correct_steps(self) -> None:
        """Put the step right that the optimizers have just taken; once an update, before anything is recycled."""
        for young in self.young.values():
            young.correct_step()

    @torch.no_grad()
    def let_go_of_grown(self) -> None:
        """After an update, on the host: forget the entries whose own count makes no difference any more."""
        for name, young in list(self.young.items()):
            self.changes += young.count_step()
            if not len(young):
                del self.young[name]

    @torch.no_grad()
    def recycle(self, name: str, neurons: Sequence[Tensor], means: Sequence[Tensor] | None = None) -> None:
        """Start neurons of a network afresh.

        Args:
            name: of the network.
            neurons: per hidden layer the indices of those to recycle, (n,), int64, on the network's device.
            means: if given, per hidden layer the mean of each input that it gives to the next layer, (fan in,): what
                goes missing with a neuron is added to the next layer's biases.
        """
        network = self.agent.networks[name]
        copies = [network]
        if self.mirror_targets and name in self.agent.targets:
            copies.append(self.agent.targets[name])
        fresh = [
            self._draw(layer)[chosen] if len(chosen) else layer.weight[chosen]
            for layer, chosen in zip(network.layers(), neurons, strict=False)
        ]
        columns = [torch.isin(network.sources(i + 1), chosen) for i, chosen in enumerate(neurons)]
        for one in copies:
            _rewrite(one, neurons, columns, fresh, means)
        self.recycled += sum(len(chosen) for chosen in neurons)
        if self.agent.optimizers[name].state:  # before its first step there is nothing to forget
            if name not in self.young:
                self.young[name] = self._no_entries(name)
            self.young[name].restart(_touched(network, neurons, columns))
            self.changes += 1

    def _draw(self, layer: nn.Linear | nn.Conv2d) -> Tensor:
        """Weights of a layer as they might have begun."""
        fresh = copy.deepcopy(layer)
        if self.init == "network":
            self.agent.init_layer(fresh, self.agent.generator)
            return fresh.weight
        init_layer(fresh, self.agent.generator, FAN_IN_UNIFORM)
        return fresh.weight * GAINS[self.init]

    def _no_entries(self, name: str) -> YoungEntries:
        return YoungEntries(list(self.agent.networks[name].parameters()), self.agent.optimizers[name])

    def get_state(self) -> dict[str, Any]:
        """What `set_state` takes."""
        return {"recycled": self.recycled, "young": {name: young.get_state() for name, young in self.young.items()}}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what `get_state` gave."""
        self.recycled = state["recycled"]
        self.changes += 1
        self.young = {name: self._no_entries(name) for name in state["young"]}
        for name, entries in state["young"].items():
            self.young[name].set_state(entries)


def _touched(network: Network, neurons: Sequence[Tensor], columns: Sequence[Tensor]) -> list[Tensor]:
    """Which entries recycling changes: a bool mask of each parameter, in the order of `network.parameters()`."""
    masks: dict[Tensor, Tensor] = {p: torch.zeros_like(p, dtype=torch.bool) for p in network.parameters()}
    layers = network.layers()
    for layer, after, chosen, gone in zip(layers, layers[1:], neurons, columns, strict=False):
        assert layer.bias is not None
        masks[layer.weight][chosen] = True
        masks[layer.bias][chosen] = True
        rows_of(masks[after.weight])[:, gone] = True
    return list(masks.values())


def _rewrite(
    network: Network,
    neurons: Sequence[Tensor],
    columns: Sequence[Tensor],
    fresh: Sequence[Tensor],
    means: Sequence[Tensor] | None,
) -> None:
    """New weights in place.

    Args:
        network: whose layers.
        neurons: per hidden layer the recycled ones, (n,).
        columns: per hidden layer which inputs of the next one they feed, bool (fan in,).
        fresh: per hidden layer their new incoming weights, (n, ...).
        means: see `Recycler.recycle`.
    """
    layers = network.layers()
    if means is not None:
        for layer, gone, mean in zip(layers[1:], columns, means, strict=True):
            assert layer.bias is not None
            layer.bias += rows_of(layer.weight)[:, gone] @ mean[gone]
    for layer, chosen, weights in zip(layers, neurons, fresh, strict=False):
        assert layer.bias is not None
        layer.weight[chosen] = weights
        layer.bias[chosen] = 0.0
    # Last: where both ends of a weight are new, its source must be silent all the same.
    for layer, gone in zip(layers[1:], columns, strict=True):
        rows_of(layer.weight)[:, gone] = 0.0
