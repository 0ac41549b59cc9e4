"""CoTASP: each visit has its own sparse part of one policy network, drawn from the text of its task.

Yang et al. 2023, "Continual Task Allocation in Meta-Policy Network via Sparse Prompting" (arXiv 2305.18444). Per hidden
layer, a dictionary codes the embedding of the task's text as sparse coefficients, the layer's prompt; a unit takes part
iff its coefficient is above 0. Weights between two units that an earlier visit used are frozen. A prompt starts as the
code, is trained in turn with the weights, and afterwards moves the dictionary.

Differences from the source:
- The text is the task's name, a word a random vector, so that no language model is needed; real sentence vectors come
  with `embedding`.
- Our squashed Gaussian, as all methods have it: the source limits the mean by tanh and has its own form of deviation.
- The critics have the run's `model`, so that methods share their size; the source's are smaller, with layer norm.
- Target entropy is the run's (-4 on Meta-World, where the source has -2), so that it also fits discrete actions.
- Warm-up acts as tasks other than the current one; the source also as the current task's earlier visits.
- A task that was never visited acts with the current visit's prompt; the source gives it a random one.
- Weights start as in all our networks; weights and prompts alternate by updates, in the source by environment steps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rllib_nbsp.curriculum import Phase, Visit
from rllib_nbsp.methods.agent import Agent, Batch, VisitData
from rllib_nbsp.methods.base import Acting, ContinualMethod, MethodSettings, register_method
from rllib_nbsp.methods.parts.dictionary import Dictionary, sparse_code
from rllib_nbsp.methods.parts.texts import EMBEDDING_SIZE, check_embeddings, name_embedding, read_embeddings
from rllib_nbsp.nn.losses import squashed_gaussian
from rllib_nbsp.nn.networks import FAN_IN_UNIFORM, Network
from rllib_nbsp.settings import ModelSettings, NonNegativeInt, PositiveFloat, PositiveInt, ReplaySettings, RunSettings

NORM_EPS = 1e-6


class CoTASPSettings(MethodSettings):
    """The method's keys."""

    lam: PositiveFloat = 1e-3
    """Weight of the L1 norm in the sparse code."""
    alternate: list[NonNegativeInt] = Field([990, 10], min_length=2, max_length=2)
    """Updates of the policy's weights, then of its prompt, in turn."""
    distill_updates: NonNegativeInt = 20_000
    """From the second visit on, updates towards a random policy on the last visit's D; 0 switches them off."""
    revisit: Literal["new_row", "reuse_row"] = "new_row"
    """A task's next visit: a new prompt as in the source, or the task's own, under which everything is frozen."""
    width: Annotated[list[PositiveInt], Field(min_length=1)] | None = None
    """Hidden layers of all networks instead of `model.hidden`; the source's actor has four of 1024."""
    embedding: str | None = None
    """Absolute path of an .npz file with a sentence vector for each task, instead of vectors of its name's words."""
    reward_scale: PositiveFloat | None = 0.002
    """1/horizon, here Meta-World's. None here and below: the run's `training` section."""
    actor_lr: PositiveFloat | None = 3e-4
    """In place of `training.actor_lr`."""
    critic_lr: PositiveFloat | None = 3e-4
    """In place of `training.critic_lr`."""
    alpha_lr: PositiveFloat | None = 3e-4
    """In place of `training.alpha_lr`."""
    initial_alpha: PositiveFloat | None = math.e
    """In place of `training.initial_alpha`."""
    target_entropy: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """In place of `training.target_entropy`."""


TRAINING_KEYS = ("reward_scale", "actor_lr", "critic_lr", "alpha_lr", "initial_alpha", "target_entropy")


# The prompted network


class _Step(torch.autograd.Function):
    """1 where a > 0, else 0; backwards the identity on (0, 1), else 0."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return (a > 0.0).to(a.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return gradient * ((a > 0.0) & (a < 1.0))


def step(a: Tensor) -> Tensor:
    """phi of a prompt, of the same shape, with a straight-through gradient: what is off stays off."""
    return _Step.apply(a)


def masked_norm(z: Tensor, phi: Tensor) -> Tensor:
    """Layer norm over the active units alone, shape (B, N, ...); the others stay 0.

    Args:
        z: pre-activations, 0 where a unit is off.
        phi: 1 where a unit is on, else 0, broadcastable to `z`; a channel is on at all its places.
    """
    dims = tuple(range(1, z.dim()))
    on = phi.detach().expand_as(z)
    count = on.sum(dims, keepdim=True).clamp(min=1.0)
    mean = z.sum(dims, keepdim=True) / count
    variance = ((z - mean) * on).square().sum(dims, keepdim=True) / count
    return (z - mean) * torch.rsqrt(variance + NORM_EPS) * phi


class PromptedNetwork(Network):
    """A policy in which each task has its own units: its visit's row of the prompts says which.

    The activations are the method's: layer norm and tanh first, then leaky ReLU. `model.activation` is for the critics.

    Attributes:
        prompts: per hidden layer the coefficients, (V, N), one row a visit.
        row_of: each task's row, (K + 1,); the last entry is the current visit's, for passes that name no task.
    """

    row_of: Tensor

    def __init__(
        self,
        in_shape: tuple[int, ...],
        hidden: Sequence[int],
        out_features: int,
        *,
        tasks: int,
        visits: int,
        activation: str,
        conv: Sequence[tuple[int, int, int]] = (),
        init: str = FAN_IN_UNIFORM,
        generator: torch.Generator,
    ) -> None:
        super().__init__(in_shape, hidden, out_features, activation="relu", conv=conv, init=init, generator=generator)
        self.prompts = nn.ParameterList([torch.zeros(visits, neurons) for neurons in self.num_neurons()])
        self.register_buffer("row_of", torch.zeros(tasks + 1, dtype=torch.int64))

    def run_through(self, inputs: Tensor, shown: Any, frozen: bool, record: list[Tensor] | None) -> Tensor:
        """As `Network` has it, with the rows of the task; a unit that is off has activation 0."""
        return super().run_through(inputs, self.row_of[-1 if shown is None else shown], frozen, record)

    def unit(self, i: int, layer: nn.Module, x: Tensor, shown: Tensor, frozen: bool) -> tuple[Tensor, Tensor]:
        """What hidden layer `i` hands on under the rows `shown` of its prompts, twice."""
        z = self.layer_outputs(i, layer, x, shown, frozen)
        prompts = self.prompts[i]
        phi = F.embedding(shown, step(prompts.detach() if frozen else prompts))
        phi = phi.reshape(*phi.shape, *[1] * (z.dim() - 2))
        z = z * phi
        x = torch.tanh(masked_norm(z, phi)) if i == 0 else F.leaky_relu(z)
        return x, x


def open_weights(policy: Network, allocated: list[Tensor], outputs: int) -> list[tuple[Tensor, Tensor]]:
    """Each weight and bias with what multiplies its gradient, of its shape: 1 learns, 0 is frozen.

    Args:
        policy: whose weights.
        allocated: per hidden layer 1 for units that an earlier visit used, (N,).
        outputs: rows of the head that act (means or logits); the others, log standard deviations, stay open.
    """
    masks = []
    for i, layer in enumerate(policy.layers()):
        weight = layer.weight
        if i < len(allocated):
            units = allocated[i]
        else:  # as if in use from the start: so the bias of outputs that act stays at 0, which is to have none
            units = (torch.arange(len(weight), device=weight.device) < outputs).to(weight.dtype)
        inputs = torch.ones_like(weight[0].flatten()) if i == 0 else allocated[i - 1][policy.sources(i)]
        both = torch.minimum(units.unsqueeze(1), inputs.unsqueeze(0))
        masks.append((weight, (1.0 - both).reshape(weight.shape)))
        if layer.bias is not None:
            masks.append((layer.bias, 1.0 - units))
    return masks


# The method


class SparsePrompting(ContinualMethod):
    """A visit's policy is the part of one network that its prompt leaves on; what earlier visits use is frozen."""

    Config = CoTASPSettings
    freezes_weights = True

    @classmethod
    def check(cls, config: CoTASPSettings, settings: RunSettings) -> list[str]:
        errors = []
        if not any(config.alternate):
            errors.append("alternate is [0, 0]; one of the two must be at least 1")
        if config.embedding is not None:
            errors += check_embeddings(config.embedding, settings.tasks)
        return errors

    @classmethod
    def model_config(cls, config: CoTASPSettings, model: ModelSettings) -> dict[str, Any]:
        return {} if config.width is None else {"hidden": config.width}

    @classmethod
    def network(cls, config: CoTASPSettings, name: str, tasks: int, visits: int) -> Callable[..., Network]:
        return functools.partial(PromptedNetwork, tasks=tasks, visits=visits) if name == "policy" else Network

    @classmethod
    def phases(cls, config: CoTASPSettings, visit: Visit) -> list[Phase]:
        if visit.number == 1 or not config.distill_updates:
            return [Phase()]
        distil = Phase("distil", collect=False, updates=config.distill_updates, sac_losses=False)
        return [distil, Phase(fresh=True)]

    @classmethod
    def boundary_exceptions(cls, config: CoTASPSettings) -> dict[str, bool]:
        # Distillation needs the last visit's D; the phase after it starts with an empty one.
        return {"clear_buffer": not config.distill_updates, "reset_optimizer": True, "reset_alpha": True}

    @classmethod
    def training_exceptions(cls, config: CoTASPSettings) -> dict[str, Any]:
        return {key: value for key in TRAINING_KEYS if (value := getattr(config, key)) is not None}

    @classmethod
    def acting(cls, config: CoTASPSettings) -> Acting:
        return Acting(warmup="earlier_tasks")

    def __init__(self, config: CoTASPSettings, agent: Agent, replay: ReplaySettings) -> None:
        super().__init__(config, agent, replay)
        policy = agent.networks["policy"]
        assert isinstance(policy, PromptedNetwork)
        self.policy = policy
        self.embeddings = None if config.embedding is None else read_embeddings(config.embedding)
        size = EMBEDDING_SIZE if self.embeddings is None else len(next(iter(self.embeddings.values())))
        self.dictionaries = [Dictionary(neurons, size, agent.generator) for neurons in policy.num_neurons()]
        self.allocated = [torch.zeros(neurons, device=agent.device) for neurons in policy.num_neurons()]
        self.rows: dict[int, int] = {}
        self.row, self.updates = 0, 0
        self.reuses = self.distils = False
        with torch.no_grad():
            policy.head.bias[: agent.act_dim] = 0.0
        self._set_masks()

    @classmethod
    def no_graph(cls, config: CoTASPSettings) -> str | None:
        return None

    # Hooks of a visit

    def on_visit_start(self, visit: Visit, data: VisitData | None) -> None:
        if visit.number > 1:
            self._fresh_critics()
        task = visit.task.index
        self.reuses = self.config.revisit == "reuse_row" and task in self.rows
        if not self.reuses:
            self.rows[task] = visit.number - 1
        self.row, self.updates = self.rows[task], 0
        for k in range(len(self.policy.row_of)):
            self.policy.row_of[k] = self.rows.get(k, self.row)
        if not self.reuses:
            self._write_prompt(self._embedding(visit))
        self._set_masks()

    @torch.no_grad()
    def _write_prompt(self, embedding: np.ndarray) -> None:
        for prompts, dictionary in zip(self.policy.prompts, self.dictionaries, strict=True):
            prompts[self.row] = torch.from_numpy(sparse_code(embedding, dictionary.atoms, self.config.lam))

    def _fresh_critics(self) -> None:
        for name, target in self.agent.targets.items():
            critic = self.agent.networks[name]
            for layer in critic.layers():
                self.agent.init_layer(layer, self.agent.generator)
            target.load_state_dict(critic.state_dict())

    def _embedding(self, visit: Visit) -> np.ndarray:
        name = visit.task.name
        vector = name_embedding(name) if self.embeddings is None else self.embeddings[name]
        return np.asarray(vector / np.linalg.norm(vector))

    def on_phase_start(self, visit: Visit, phase: Phase) -> None:
        self.distils = phase.name == "distil"

    def on_phase_end(self, visit: Visit, phase: Phase, data: VisitData) -> None:
        if self.distils:
            self.agent.optimizers["policy"].state.clear()
        self.distils = False

    def on_visit_end(self, visit: Visit, data: VisitData) -> None:
        for allocated, prompts, dictionary in zip(self.allocated, self.policy.prompts, self.dictionaries, strict=True):
            prompt = prompts[self.row].detach()
            torch.maximum(allocated, step(prompt), out=allocated)
            dictionary.learn(prompt.double().cpu().numpy(), self._embedding(visit), self.agent.generator)
        self._set_masks()

    def _set_masks(self) -> None:
        """What multiplies the gradients of weights and of the prompts' rows, from what is allocated and where we are.

        The gradients' masks are exact: Adam's moments are cleared whenever they change.
        """
        self.open = open_weights(self.policy, self.allocated, self.agent.act_dim)
        self.open_rows = torch.zeros(len(self.policy.prompts[0]), 1, device=self.agent.device)
        if not self.reuses:
            self.open_rows[self.row] = 1.0

    # Hooks of an update

    def loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        """While distilling, the KL divergence from the policy to a standard Gaussian before tanh, or to equal odds."""
        if not self.distils:
            return {}
        head = self.policy(batch.obs)  # as the current task, on the last visit's observations
        if self.agent.discrete:
            return {"policy": uniform_divergence(head)}
        return {"policy": standard_divergence(*squashed_gaussian(head))}

    def transform_gradients(self, batch: Batch) -> None:
        if "policy" not in batch.moving:
            return
        for param, mask in self.open:
            _mask_or_drop(param, None if self._is_prompts_turn else mask)
        for param in self.policy.prompts:
            _mask_or_drop(param, self.open_rows if self._is_prompts_turn else None)

    @property
    def _is_prompts_turn(self) -> bool:
        """Whether the update that is being made trains the prompt, and not the weights."""
        theta, prompt = self.config.alternate
        return not self.distils and self.updates % (theta + prompt) >= theta

    def on_update_end(self) -> None:
        self.updates += not self.distils

    def graph_key(self, *, of_prior: bool) -> Hashable | None:
        return self._is_prompts_turn

    # Records and state

    def metrics(self) -> dict[str, float]:
        active = torch.cat([step(prompts[self.row].detach()) for prompts in self.policy.prompts])
        weights = torch.cat([mask.flatten() for param, mask in self.open if param.dim() > 1])
        return {"active_frac": float(active.mean()), "masked_frac": float((weights < 1.0).double().mean())}

    def neuron_arrays(self) -> dict[str, np.ndarray]:
        """Which units the visit's prompt leaves on, and which any visit so far uses."""
        arrays = {}
        for i, (prompts, allocated) in enumerate(zip(self.policy.prompts, self.allocated, strict=True)):
            arrays[f"policy/{i}/active"] = step(prompts[self.row].detach()).cpu().numpy()
            arrays[f"policy/{i}/allocated"] = allocated.cpu().numpy()
        return arrays

    def get_state(self) -> dict[str, Any]:
        return {
            "dictionaries": [{name: array.copy() for name, array in vars(d).items()} for d in self.dictionaries],
            "allocated": [allocated.cpu().numpy().copy() for allocated in self.allocated],
            "rows": {str(task): row for task, row in self.rows.items()},
            "row": self.row,
            "updates": self.updates,
            "reuses": self.reuses,
            "distils": self.distils,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        for dictionary, arrays in zip(self.dictionaries, state["dictionaries"], strict=True):
            for name, array in arrays.items():
                setattr(dictionary, name, np.array(array))
        self.allocated = [torch.tensor(array, device=self.agent.device) for array in state["allocated"]]
        self.rows = {int(task): row for task, row in state["rows"].items()}
        self.row, self.updates = state["row"], state["updates"]
        self.reuses, self.distils = state["reuses"], state["distils"]
        self._set_masks()


def standard_divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """Mean over rows and dimensions of `KL(N(mean, std) || N(0, 1))`, a scalar."""
    return (0.5 * (torch.exp(2.0 * log_std) + mean.square() - 1.0) - log_std).mean()


def uniform_divergence(logits: Tensor) -> Tensor:
    """Mean over rows of `KL(pi || equal odds)`, a scalar, from logits (B, n)."""
    log_probs = F.log_softmax(logits, -1)
    return (log_probs.exp() * log_probs).sum(-1).mean() + math.log(logits.shape[-1])


def _mask_or_drop(param: Tensor, mask: Tensor | None) -> None:
    """Multiply a gradient, or drop it, so that the optimizer leaves the parameter alone."""
    if mask is None:
        param.grad = None
    elif param.grad is not None:
        param.grad.mul_(mask)


register_method("cotasp", SparsePrompting)
