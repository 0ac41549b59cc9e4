"""NBSP: score the neurons, brake the updates of the skill neurons, replay earlier tasks (Lan et al. 2025).

Scores and selection are in `nn/neurons.py` (Eq. 1-4, 6), prior replay in `replay/buffer.py` (Eq. 7); here the masks of
Eq. 5-6 meet the weights. Every switch of the paper's ablations is a config value.

Differences from the source:
- The mask multiplies the optimizer's *step* (`mask_on: update`). Eq. 5 masks the gradient, but Adam cancels a constant
  factor on a gradient, so that form protects next to nothing; it is there as `mask_on: grad`.
- The bias is masked with its neuron's weights; Eq. 5 names the weights alone (`mask_bias: false`).
- If the scoring rollout only succeeds or only fails, the last masks stay: such scores say nothing of the task.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Iterator
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods.agent import Agent, Batch, VisitData
from rllib_nbsp.methods.base import ContinualMethod, MethodSettings, register_method
from rllib_nbsp.methods.parts.braking import Brake, rows_of, step_ratio
from rllib_nbsp.nn.networks import Network
from rllib_nbsp.nn.neurons import (
    LayerStatistics,
    NeuronScores,
    select_as_many,
    select_significant,
    select_top,
    skill_mask,
)
from rllib_nbsp.nn.plasticity import adam_step
from rllib_nbsp.settings import Frac, ReplaySettings, RunSettings, ScoringSettings

logger = logging.getLogger(__name__)

NeuronMasks = dict[str, list[Tensor]]
Side = Literal["in", "out", "both", "and"]


class NBSPSettings(MethodSettings, ScoringSettings):
    """The method's keys; an ablation is a value here, never a subclass."""

    with_replay: bool = True
    """False: masks alone."""
    skill_frac: Frac | Literal["auto"] = 0.2
    """Share of the ranked neurons that are skill neurons (Fig. 4); 0: replay alone. auto, instead of the share that the
    paper leaves to be tuned: the neurons that follow the goal by more than chance, never constant ones."""
    skill_fdr: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """For `skill_frac: auto`: share of the selected that follow the goal by chance alone, at most, in expectation. The
    null has 999 turns: at 0.05, n neurons of a pool need n / 50 that beat them all."""
    mask_alpha: Frac = 0.2
    """alpha of Eq. 6; 0 freezes skill neurons."""
    mask_on: Literal["update", "grad", "grad_rescale"] = "update"
    """Mask the step, the gradient (Eq. 5), or the gradient with Adam's moments rescaled whenever masks change."""
    mask_side: Side = "in"
    """A skill neuron's incoming weights, its outgoing ones, both, or only weights between two skill neurons."""
    mask_bias: bool = True
    """Mask a neuron's bias with its weights."""
    mask_last_layer: bool = False
    """Mask the head too, by the network's mean skill mask."""
    accumulate: Literal["latest", "min", "product", "per_task_min"] = "latest"
    """Masks over visits (docs/readings.md R15); `per_task_min` is the minimum over the other tasks' latest masks."""
    pool: Literal["network", "layer", "global"] = "network"
    """Among which neurons the top share is taken (docs/readings.md R11)."""
    score: Literal["literal", "acc", "balanced", "dormant", "random"] = "literal"
    """What ranks the neurons: Eq. 4; Eq. 3 alone; Eq. 4 on balanced accuracy; dormancy; or nothing at all."""
    random_mask_value: Literal["permute", "own_score", "constant"] = "permute"
    """For `score: random`: the real selection's mask values shuffled, each neuron's own, or the real mean."""
    exclude_constant: bool = False
    """Leave out neurons that are never, or always, above their mean, such as dead ones (docs/readings.md R9)."""
    modules: Literal["both", "actor", "critic"] = "both"
    """Which networks are masked (Table 4)."""
    uniform_lr: Literal["off", "mean", "skill"] | Annotated[float, Field(ge=0.0, le=1.0)] = "off"
    """Control: one factor for every hidden neuron instead: the masks' mean, the skill masks' mean, or a number."""


class NeuronLevelBalance(ContinualMethod):
    """Skill neurons learn `mask_alpha (1 - Score)` times as fast (Eq. 5, 6); everything else learns freely."""

    Config = NBSPSettings
    replay_scopes = ("all", "same_module")

    def __init__(self, config: NBSPSettings, agent: Agent, replay: ReplaySettings) -> None:
        super().__init__(config, agent, replay)
        self.masks: NeuronMasks = {
            name: [torch.ones(n, device=agent.device) for n in net.num_neurons()]
            for name, net in agent.networks.items()
        }
        self.task_masks: dict[int, NeuronMasks] = {}
        self.report: dict[str, float] = {}
        self.brakes: list[Brake] = []

    # Declarations

    @classmethod
    def check(cls, config: NBSPSettings, settings: RunSettings) -> list[str]:
        errors = []
        if config.mask_on == "grad_rescale" and settings.boundary.reset_optimizer:
            errors.append(
                "mask_on is 'grad_rescale', which rescales kept Adam moments, but boundary.reset_optimizer is true; "
                "set boundary.reset_optimizer: false or mask_on: grad"
            )
        if settings.replay.scope == "same_module" and settings.replay.mode == "mix":
            errors.append(
                "replay.scope 'same_module' needs whole batches from D_pre: replay.mode is 'mix', not 'batch'"
            )
        if config.mask_last_layer and config.mask_side == "out":
            errors.append("mask_last_layer is true, which needs incoming weights: mask_side is 'out'; use in or both")
        if config.skill_frac == "auto":
            return [*errors, *_check_auto(config)]
        if config.skill_fdr != cls.Config().skill_fdr:
            errors.append(
                f"skill_fdr is {config.skill_fdr}, which skill_frac {config.skill_frac} does not read: use auto"
            )
        neurons = sum(settings.model.hidden)
        if 0.0 < config.skill_frac * neurons < 1.0:
            errors.append(
                f"skill_frac is {config.skill_frac}: it selects 0 of {neurons} neurons; one neuron needs "
                f"{math.ceil(1e4 / neurons) / 1e4:g}"
            )
        return errors

    @classmethod
    def idle_in_first_visit(cls, config: NBSPSettings) -> bool:
        return True

    @classmethod
    def scoring(cls, config: NBSPSettings) -> ScoringSettings | None:
        if config.uniform_lr == "off":
            return config if config.skill_frac else None
        return config if isinstance(config.uniform_lr, str) else None  # a given factor needs no scores

    @classmethod
    def no_graph(cls, config: NBSPSettings) -> str | None:
        return None

    # Hooks

    def graph_key(self, *, of_prior: bool) -> Hashable | None:
        return of_prior and self.replay.scope == "same_module"

    def on_visit_end(self, visit: Visit, data: VisitData) -> None:
        if not isinstance(self.config.uniform_lr, str):
            self._accumulate(visit, self._uniform_masks(float(self.config.uniform_lr)))
            return
        if self.scoring(self.config) is None:
            return
        if data.scores is None:
            raise ValueError(
                f"visit {visit.number}: the method 'nbsp' needs the neurons' scores, but no callback had them scored; "
                "keep SkillNeuronCallback among the callbacks"
            )
        if data.scores.degenerate:
            logger.warning(
                "visit %d (%s): the goal is above its mean at %.0f %% of the scored steps: the masks stay as they were",
                visit.number,
                visit.task.name,
                100 * data.scores.label_rate,
            )
            return
        self._accumulate(visit, self.masks_of(data.scores))

    def _accumulate(self, visit: Visit, latest: NeuronMasks) -> None:
        """Masks over visits (docs/readings.md R15)."""
        if self.config.accumulate == "latest":
            self._set_masks(latest)
        elif self.config.accumulate == "min":
            self._set_masks(_combine(self.masks, latest, torch.minimum))
        elif self.config.accumulate == "product":
            self._set_masks(_combine(self.masks, latest, torch.mul))
        else:
            self.task_masks.pop(visit.task.index, None)  # the latest stands last
            self.task_masks[visit.task.index] = latest

    def on_visit_start(self, visit: Visit, data: VisitData | None) -> None:
        if self.config.accumulate == "per_task_min":
            masks = {name: [torch.ones_like(m) for m in layers] for name, layers in self.masks.items()}
            for task, others in self.task_masks.items():
                if task != visit.task.index:
                    masks = _combine(masks, others, torch.minimum)
            self._set_masks(masks)

    def transform_gradients(self, batch: Batch) -> None:
        if self.replay.scope == "same_module" and batch.of_prior:
            self._drop_gradients_outside()
        for brake in self.brakes:
            if self.config.mask_on == "update":
                brake.remember()
            else:
                brake.scale_gradient()

    def after_step(self, batch: Batch) -> None:
        if self.config.mask_on == "update":
            for brake in self.brakes:
                brake.scale_step()

    # Scores to masks

    def masks_of(self, scores: NeuronScores) -> NeuronMasks:
        """Masks per network and hidden layer, (N,), from one scoring (Eq. 6 and its controls)."""
        layers = {name: [_to(s, self.agent.device) for s in scores.layers[name]] for name in self._masked_networks()}
        value = {name: [self._value(s) for s in stats] for name, stats in layers.items()}
        skill = real = self._select(layers)
        if self.config.score == "random":
            ranking = {name: [self._eligible(s, self._random(s)) for s in stats] for name, stats in layers.items()}
            skill = select_as_many(ranking, real, self.config.pool)
            masks = self._random_masks(value, skill, real)
        else:
            masks = {
                name: [skill_mask(v, k, self.config.mask_alpha) for v, k in zip(value[name], skill[name], strict=True)]
                for name in value
            }
        self._report_selection(scores, layers, skill)
        if self.config.uniform_lr != "off":
            masks = {name: self._mean_masks(masks[name], skill[name]) for name in masks}
        return {name: masks.get(name) or [torch.ones_like(m) for m in self.masks[name]] for name in self.masks}

    def _masked_networks(self) -> tuple[str, ...]:
        return {"both": ("policy", "qf", "qf_twin"), "actor": ("policy",), "critic": ("qf", "qf_twin")}[
            self.config.modules
        ]

    def _value(self, stats: LayerStatistics) -> Tensor:
        """The Score in Eq. 6."""
        return {"acc": stats.accuracy, "balanced": stats.balanced_score}.get(self.config.score, stats.score)

    def _select(self, layers: dict[str, list[LayerStatistics]]) -> NeuronMasks:
        """The skill neurons by what scores say, (N,) bool; for `score: random`, those of the paper."""
        if self.config.skill_frac == "auto":
            p_values = {name: [s.p_value for s in stats] for name, stats in layers.items()}
            if any(bool(p.isnan().any()) for own in p_values.values() for p in own):
                raise ValueError(
                    "skill_frac is 'auto', which needs the p-values of neurons, and these scores have none: have them "
                    "scored by SkillNeuronCallback, or give a share"
                )
            return select_significant(p_values, self.config.skill_fdr, self.config.pool)
        ranking = {name: [self._eligible(s, self._ranking(s)) for s in stats] for name, stats in layers.items()}
        return select_top(ranking, self.config.skill_frac, self.config.pool)

    def _ranking(self, stats: LayerStatistics) -> Tensor:
        return stats.dormancy if self.config.score == "dormant" else self._value(stats)

    def _random(self, stats: LayerStatistics) -> Tensor:
        noise = torch.rand(len(stats.score), generator=self.agent.generator, dtype=torch.float64)
        return noise.to(self.agent.device)

    def _eligible(self, stats: LayerStatistics, ranking: Tensor) -> Tensor:
        return torch.where(stats.is_constant, -torch.inf, ranking) if self.config.exclude_constant else ranking

    def _random_masks(self, value: NeuronMasks, skill: NeuronMasks, real: NeuronMasks) -> NeuronMasks:
        """Masks of a random set of neurons, as many as the real selection has (Table 3; docs/readings.md R26)."""
        masks: NeuronMasks = {}
        # Networks that compete for one share also exchange their mask values.
        for names in [list(value)] if self.config.pool == "global" else [[name] for name in value]:
            values, random, chosen = (
                torch.cat([layer for name in names for layer in table[name]]) for table in (value, skill, real)
            )
            flat = skill_mask(values, random, self.config.mask_alpha)
            wanted = skill_mask(values, chosen, self.config.mask_alpha)[chosen]
            if self.config.random_mask_value == "constant":
                flat[random] = wanted.mean()
            elif self.config.random_mask_value == "permute":
                flat[random] = wanted[torch.randperm(len(wanted), generator=self.agent.generator).to(wanted.device)]
            parts = iter(flat.split([len(layer) for name in names for layer in value[name]]))
            masks |= {name: [next(parts) for _ in value[name]] for name in names}
        return masks

    def _mean_masks(self, masks: list[Tensor], skill: list[Tensor]) -> list[Tensor]:
        """One factor for all hidden neurons of a network, the mean of its masks (docs/readings.md R28)."""
        flat, flat_skill = torch.cat(masks), torch.cat(skill)
        if self.config.uniform_lr == "skill":
            flat = flat[flat_skill] if flat_skill.any() else torch.ones(1)
        return [torch.full_like(m, float(flat.mean())) for m in masks]

    def _uniform_masks(self, factor: float) -> NeuronMasks:
        masked = self._masked_networks()
        return {
            name: [torch.full_like(m, factor if name in masked else 1.0) for m in layers]
            for name, layers in self.masks.items()
        }

    def _report_selection(
        self, scores: NeuronScores, layers: dict[str, list[LayerStatistics]], skill: NeuronMasks
    ) -> None:
        """p and the share of constant neurons among the chosen: Eq. 4 favours dead ones (docs/readings.md R9)."""
        self.report = {"label_rate": scores.label_rate}
        for name, stats in layers.items():
            chosen, constant = torch.cat(skill[name]), torch.cat([s.is_constant for s in stats])
            if chosen.any():
                self.report[f"constant_skill_frac_{name}"] = float(constant[chosen].double().mean())

    # Masks to weights

    def _set_masks(self, masks: NeuronMasks, rescale: bool = True) -> None:
        if rescale and self.config.mask_on == "grad_rescale":
            self._rescale_moments(masks)
        self.masks = masks
        self.brakes = [
            Brake(param, mask)
            for name in self.agent.networks
            for param, mask in self._weight_masks(name, masks)
            if bool((mask < 1.0).any())
        ]

    def _weight_masks(self, name: str, masks: NeuronMasks) -> Iterator[tuple[Tensor, Tensor]]:
        head = None
        if self.config.mask_last_layer:
            flat = torch.cat(masks[name])
            head = float(flat[flat < 1.0].mean()) if bool((flat < 1.0).any()) else None
        network = self.agent.networks[name]
        return weight_masks(network, masks[name], self.config.mask_side, self.config.mask_bias, head)

    def _rescale_moments(self, new: NeuronMasks) -> None:
        """Put Adam's moments on the scale of the new masks, as if these had always held (docs/readings.md R12)."""
        for name in self.agent.networks:
            state = self.agent.optimizers[name].state
            pairs = zip(self._weight_masks(name, self.masks), self._weight_masks(name, new), strict=True)
            for (param, before), (_, after) in pairs:
                if param in state:
                    # A mask of 0 leaves moments of 0, from which no scale can be read: the floor keeps them small.
                    ratio = torch.where(after == before, 1.0, after / before.clamp(min=1e-3))
                    ratio = ratio.expand_as(rows_of(param)).reshape(param.shape)
                    state[param]["exp_avg"] *= ratio
                    state[param]["exp_avg_sq"] *= ratio.square()

    def _drop_gradients_outside(self) -> None:
        masked = self._masked_networks()
        for name, network in self.agent.networks.items():
            if name not in masked:
                for param in network.parameters():
                    param.grad = None
        if "policy" not in masked:
            self.agent.log_alpha.grad = None

    # Records and state

    def metrics(self) -> dict[str, float]:
        flat = torch.cat([m for layers in self.masks.values() for m in layers])
        ratios = {name: self._step_ratio(name) for name in self.agent.networks} if self.brakes else {}
        braked = {f"masked_step_ratio_{name}": ratio for name, ratio in ratios.items() if ratio is not None}
        return {"masked_frac": float((flat < 1.0).double().mean()), **self.report, **braked}

    @torch.no_grad()
    def _step_ratio(self, name: str) -> float | None:
        """How long the last steps of hidden layers' masked weights were, over the others' (docs/glossary.md)."""
        network, optimizer = self.agent.networks[name], self.agent.optimizers[name]
        head = {*network.head.parameters()}
        on_step = self.config.mask_on == "update"
        steps = []
        for param, mask in self._weight_masks(name, self.masks):
            if param not in head:
                step = rows_of(adam_step(optimizer, param))
                steps.append((step * mask if on_step else step, mask))
        return step_ratio(steps)

    def neuron_arrays(self) -> dict[str, np.ndarray]:
        """The masks that came of the last scoring; with `per_task_min`, those in force depend on the next task."""
        masks = [self.masks, *self.task_masks.values()][-1]
        return {
            f"{name}/{i}/mask": mask.cpu().numpy() for name, layers in masks.items() for i, mask in enumerate(layers)
        }

    def get_state(self) -> dict[str, Any]:
        def arrays(masks: NeuronMasks) -> dict[str, list[np.ndarray]]:
            return {name: [m.cpu().numpy() for m in layers] for name, layers in masks.items()}

        return {
            "masks": arrays(self.masks),
            "task_masks": {str(task): arrays(masks) for task, masks in self.task_masks.items()},
            "report": dict(self.report),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        def tensors(masks: dict[str, list[np.ndarray]]) -> NeuronMasks:
            return {
                name: [torch.as_tensor(m, device=self.agent.device) for m in layers] for name, layers in masks.items()
            }

        self._set_masks(tensors(state["masks"]), rescale=False)  # restored moments are on the masks' scale already
        self.task_masks = {int(task): tensors(masks) for task, masks in state["task_masks"].items()}
        self.report = dict(state["report"])


def _check_auto(config: NBSPSettings) -> list[str]:
    """What `skill_frac: auto` cannot go with."""
    if config.score == "dormant":
        return ["skill_frac is 'auto', which asks who follows the goal, and score 'dormant' does not: give a share"]
    return []


def weight_masks(
    network: Network, masks: list[Tensor], side: Side, with_bias: bool, head: float | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter with its mask, broadcastable to (rows, everything else).

    Args:
        network: whose layers are masked.
        masks: per hidden layer (N,).
        side: see `NBSPSettings.mask_side`.
        with_bias: whether a neuron's bias is masked with its incoming weights.
        head: a factor for the output layer, or None.
    """
    for i, layer in enumerate(network.layers()):
        width, fan_in = layer.weight.shape[0], layer.weight[0].numel()
        if i < len(masks):
            row = masks[i]
        else:
            row = torch.full((width,), 1.0 if head is None else head, device=layer.weight.device)
        column = torch.ones(fan_in, device=row.device)
        if i > 0:
            column = masks[i - 1][network.sources(i)]
        if side == "in":
            mask = row.unsqueeze(1)
        elif side == "out":
            mask = column.expand(width, -1)
        else:
            rows, columns = row.unsqueeze(1), column.unsqueeze(0)
            both = (rows < 1.0) & (columns < 1.0)
            mask = (
                torch.where(both, torch.maximum(rows, columns), 1.0) if side == "and" else torch.minimum(rows, columns)
            )
        yield layer.weight, mask
        if with_bias and layer.bias is not None:
            yield layer.bias, row.unsqueeze(1) if side in ("in", "both") else torch.ones_like(row).unsqueeze(1)


def _combine(a: NeuronMasks, b: NeuronMasks, how: Any) -> NeuronMasks:
    return {name: [how(x, y) for x, y in zip(a[name], b[name], strict=True)] for name in a}


def _to(stats: LayerStatistics, device: torch.device) -> LayerStatistics:
    return LayerStatistics(**{key: value.to(device) for key, value in vars(stats).items()})


register_method("nbsp", NeuronLevelBalance)
