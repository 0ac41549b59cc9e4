"""CBP: continual backpropagation, which keeps replacing the neurons that are of least use (Dohare et al. 2024).

Each hidden neuron has a utility, a running mean of how much it hands on: its mean |activation| times the sum of its
outgoing |weights|. At a constant rate the least useful of those that are old enough start afresh, in every hidden layer
of actor and critics. Tasks and visits mean nothing to it.

Differences from the source:
- The rate is lower, 1e-5: the source makes 0.078 updates per environment step and we make one or two.
- Adam is the run's, so that replacement alone sets CBP apart from other methods. The source's RL runs have betas of
  0.99 and a weight decay of 1e-4 in the gradient: `betas: [0.99, 0.99], weight_decay: 1.0e-4`. The temperature, which
  PPO does not have, gets the betas and no decay.
- New weights are drawn as the networks' own began, as in the source; there both are uniform in LeCun's bound, sqrt(3)
  times PyTorch's default.
- Replacements that are due add up to whole ones; the public RL code draws by chance whether one is made.
- Adam forgets a replaced neuron, its step count included, as the paper says; the public RL runs never did so.
- Both weights of a new pair of neurons are set, outgoing last, so that a new neuron is silent also to other new ones.
- Convolutions count their old neurons like other layers; the public code counts all of theirs.
- `bias_transfer` does what it says; in the public code the means that it needs are zeroed before it runs.
- Where a channel is flattened, its mean activation is kept for every pixel, which is what the next layer sees.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods.agent import Agent, Batch, VisitData
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings, register_method
from rllib_nbsp.methods.parts.braking import rows_of
from rllib_nbsp.methods.parts.recycling import Init, Recycler
from rllib_nbsp.nn.networks import Network, crelu
from rllib_nbsp.settings import Betas, Frac, NonNegativeFloat, NonNegativeInt, ReplaySettings, RunSettings


class CBPSettings(MethodSettings):
    """The method's keys."""

    rate: Frac = 1e-5
    """rho: share of a layer's old enough neurons that are replaced in an update."""
    maturity: NonNegativeInt = 10_000
    """m: updates for which a new neuron is safe."""
    decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    """eta of the running means."""
    utility: Literal["contribution", "zero_contribution", "adaptable_contribution"] = "contribution"
    """Mean |h| sum |w_out|; with |h - its running mean| in place of |h|; or this divided by sum |w_in| as well."""
    init: Init = "network"
    """New incoming weights: drawn as the networks began, or uniform in LeCun's or Kaiming's bound for ReLU."""
    bias_transfer: bool = False
    """Add a replaced neuron's mean contribution to the next layer's biases."""
    mirror_target: bool = False
    """Replace a critic's neuron in its target network too."""
    betas: Betas | None = None
    """Instead of `training.adam_betas`; the source's RL runs have [0.99, 0.99]."""
    weight_decay: NonNegativeFloat | None = None
    """Instead of `training.weight_decay`; the source's RL runs have 1e-4."""


class ContinualBackpropagation(ContinualMethod):
    """The least useful neurons are replaced by new ones, a few at a time, for as long as the run lasts.

    What is kept per neuron or input is one vector over all hidden layers of all networks, so that an update needs a few
    operations. Ages stay on the CPU: to count who is old enough must not wait for a device.

    Attributes:
        utility: running mean, not yet corrected for its start at 0, (all neurons,).
        age: updates since a neuron was new, (all neurons,), int64.
        due: replacements owed to each layer, (layers,), below 1 between updates.
        mean: running mean of each layer's outputs as the next one takes them, uncorrected, (all inputs,).
    """

    Config = CBPSettings
    needs_activations = True

    def __init__(self, config: CBPSettings, agent: Agent, replay: ReplaySettings) -> None:
        super().__init__(config, agent, replay)
        self.recycler = Recycler(agent, init=config.init, mirror_targets=config.mirror_target)
        self.outlets = [Outlet(net, i) for net in agent.networks.values() for i in range(len(net.num_neurons()))]
        self.sizes = [n for net in agent.networks.values() for n in net.num_neurons()]
        self._layer = torch.arange(len(self.sizes)).repeat_interleave(torch.tensor(self.sizes))
        self._first = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        starts = zip(self.outlets, self._first, strict=True)
        self._neuron = torch.cat([outlet.neurons + first for outlet, first in starts])
        self.utility = torch.zeros(sum(self.sizes), device=agent.device)
        self.age = torch.zeros(sum(self.sizes), dtype=torch.int64)
        self.due = torch.zeros(len(self.sizes), dtype=torch.float64)
        self.mean = torch.zeros(len(self._neuron), device=agent.device)

    @classmethod
    def check(cls, config: CBPSettings, settings: RunSettings) -> list[str]:
        updates = settings.updates_within(settings.num_visits)
        if config.rate > 0.0 and config.maturity >= updates:
            return [
                f"maturity is {config.maturity}; the run makes at most {updates} updates, so that no neuron is ever "
                "replaced: lower it, or write rate: 0.0"
            ]
        return []

    @classmethod
    def training_exceptions(cls, config: CBPSettings) -> dict[str, Any]:
        own = {"adam_betas": config.betas, "weight_decay": config.weight_decay}
        return {key: value for key, value in own.items() if value is not None}

    @classmethod
    def no_graph(cls, config: CBPSettings) -> str | None:
        return "whether a neuron is due is asked at every update"

    # Hooks

    def on_visit_start(self, visit: Visit, data: VisitData | None) -> None:
        self.recycler.on_visit_start()

    def on_update_end(self) -> None:
        self.recycler.let_go_of_grown()

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        self.recycler.correct_steps()
        self.age += 1
        self._measure([hidden for name in self.agent.networks for hidden in batch.activations[name]])
        old = self.age > self.config.maturity
        self.due += self.config.rate * torch.bincount(self._layer, old.double())
        if bool((self.due >= 1.0).any()):
            self._replace(old)

    def _measure(self, hidden: list[Tensor]) -> None:
        """Take a batch's activations, one tensor a hidden layer, into the running means."""
        inputs = [outlet.inputs(h) for outlet, h in zip(self.outlets, hidden, strict=True)]
        if self.config.bias_transfer or self.config.utility != "contribution":
            now = torch.cat([x.mean(_all_but_inputs(x)) for x in inputs])
            self.mean.lerp_(self.agent.all_reduce_mean(now), 1.0 - self.config.decay)
        if self.config.utility != "contribution":
            inputs = [x - mean.view(-1, *[1] * (x.dim() - 2)) for x, mean in zip(inputs, self.means(), strict=True)]
        activity = torch.cat([x.abs().mean(_all_but_inputs(x)) for x in inputs])
        outgoing = torch.cat([outlet.weight.abs().sum(_all_but_inputs(outlet.weight)) for outlet in self.outlets])
        utility = torch.zeros_like(self.utility).index_add_(0, self._neuron, activity * outgoing)
        if self.config.utility == "adaptable_contribution":
            utility /= torch.cat([rows_of(outlet.incoming).abs().sum(1) for outlet in self.outlets])
        # What is averaged over Learners is what is compared, so that they all replace the same neurons.
        self.utility.lerp_(self.agent.all_reduce_mean(utility), 1.0 - self.config.decay)

    def _replace(self, old: Tensor) -> None:
        """Start the least useful of the old neurons afresh, as many in each layer as are due."""
        counts = self.due.floor()
        self.due -= counts
        ranking = torch.where(old, self.corrected_utility().cpu(), torch.inf).split(self.sizes)
        chosen = [part.argsort(stable=True)[: int(count)] for part, count in zip(ranking, counts.tolist(), strict=True)]
        means = [mean.repeat_interleave(o.kernel) for mean, o in zip(self.means(), self.outlets, strict=True)]
        start = 0
        for name, network in self.agent.networks.items():
            layers = slice(start, start + len(network.num_neurons()))
            start = layers.stop
            neurons = [part.to(self.agent.device) for part in chosen[layers]]
            if any(len(part) for part in neurons):
                self.recycler.recycle(name, neurons, means[layers] if self.config.bias_transfer else None)
        new = torch.zeros_like(old)
        new[torch.cat([part + first for part, first in zip(chosen, self._first, strict=True)])] = True
        self.age[new] = 0
        new = new.to(self.agent.device)
        self.utility[new] = 0.0
        self.mean[new[self._neuron]] = 0.0

    # Running means without the bias of their start

    def _fullness(self) -> Tensor:
        """`1 - eta^age`: the share of a full average that a neuron's means are, (all neurons,)."""
        return (1.0 - self.config.decay ** self.age.clamp(min=1).double()).float().to(self.agent.device)

    def corrected_utility(self) -> Tensor:
        """Utility of every neuron, (all neurons,)."""
        return self.utility / self._fullness()

    def means(self) -> tuple[Tensor, ...]:
        """Per hidden layer the mean of what it gives to each input of the next layer, (inputs,)."""
        mean = self.mean / self._fullness()[self._neuron]
        return mean.split([len(outlet.neurons) for outlet in self.outlets])

    # Records and state

    def metrics(self) -> dict[str, float]:
        return {
            "replaced_neurons": float(self.recycler.recycled),
            "mean_utility": float(self.corrected_utility().mean()),
        }

    def neuron_arrays(self) -> dict[str, np.ndarray]:
        places = [(name, i) for name, net in self.agent.networks.items() for i in range(len(net.num_neurons()))]
        utility, age = self.corrected_utility().cpu().split(self.sizes), self.age.split(self.sizes)
        arrays = {}
        for (name, i), layer_utility, layer_age in zip(places, utility, age, strict=True):
            arrays[f"{name}/{i}/utility"] = layer_utility.numpy()
            arrays[f"{name}/{i}/age"] = layer_age.numpy().copy()
        return arrays

    def get_state(self) -> dict[str, Any]:
        vectors = {name: getattr(self, name).cpu().numpy().copy() for name in ("utility", "age", "due", "mean")}
        return {**vectors, "recycler": self.recycler.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        for name in ("utility", "age", "due", "mean"):
            setattr(self, name, torch.tensor(state[name], device=getattr(self, name).device))
        self.recycler.set_state(state["recycler"])


class Outlet:
    """What a hidden layer hands to the next one.

    Attributes:
        incoming: the layer's own weights, (N, ...).
        weight: the next layer's weights, (out, inputs, ...); a kernel's places share an input.
        kernel: how many they are, 1 if the next layer is fully connected.
        neurons: which neuron feeds each input, (inputs,).
    """

    def __init__(self, network: Network, layer: int) -> None:
        before, after = network.layers()[layer], network.layers()[layer + 1]
        self.incoming, self.weight = before.weight, after.weight
        self.kernel = after.weight[0].numel() // after.weight.shape[1]
        self.neurons = network.sources(layer + 1)[:: self.kernel]
        self._two_features = network.features_per_neuron == 2
        self._flattens = isinstance(after, nn.Linear)

    def inputs(self, hidden: Tensor) -> Tensor:
        """The next layer's inputs, (B, inputs) or (B, inputs, H, W), from recorded activations."""
        x = crelu(hidden) if self._two_features else hidden
        return x.flatten(1) if self._flattens else x


def _all_but_inputs(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.dim()))


register_method("cbp", ContinualBackpropagation)
