"""One update of SAC with a continual-learning method in it, top to bottom. torch alone: a step needs no Ray."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rllib_nbsp.curriculum import Phase
from rllib_nbsp.methods.agent import Agent, Batch, Twin, make_batch, steps_of
from rllib_nbsp.nn import losses
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.replay.stacks import with_observations
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sac.actor_critic import ActorCritic
from rllib_nbsp.sac.means import Numbers, RunningMeans
from rllib_nbsp.seeding import torch_generator
from rllib_nbsp.settings import BoundarySettings, TrainingSettings

Optimizers = Mapping[str, torch.optim.Optimizer]


class SACUpdate:
    """The agent of a Learner, its method, and an update of both.

    An update is a call; RLlib's Learner makes its parts one by one, in the order of `__call__`, through RLlib's hooks.
    It is one step of everything, or with `training.actor_interval` n > 1 a step of the critics, and at every n-th
    update n steps of actor and temperature behind it. A phase without SAC's losses has no such order: its method's
    terms are one step.

    Args:
        run: the run.
        module: the networks.
        optimizers: of the networks and of "alpha".
        device: of the parameters.

    Attributes:
        agent: what the method may touch.
        method: the run's method.
        phase: the stretch of a visit that updates belong to.
        batch: the rows of the step that is being made; RLlib's hooks hand on gradients alone.
        steps_made: of each step of the last update, names and values of its losses and numbers: a list of scalars, or
            one tensor.
        means: the same over the steps since the last report.
        updates: how many were made.
        weights: all that updates write to and others may too: parameters, targets and buffers.
    """

    batch: Batch
    steps_made: list[Numbers]

    def __init__(self, run: ResolvedRun, module: ActorCritic, optimizers: Optimizers, device: torch.device) -> None:
        self.run = run
        self.module = module
        self.training = run.training
        target_entropy = self.training.target_entropy
        self._target_entropy = module.default_target_entropy if target_entropy is None else target_entropy
        # CleanRL takes the mean over batch *and* actions of what is a sum over actions.
        self._actor_scale = 1.0 / module.act_dim if module.discrete and self.training.discrete_reduce == "mean" else 1.0
        self._target_period = max(1, round(self.training.target_update_env_steps * self.training.updates_per_env_step))
        self._rows = self.training.batch_size // run.num_learners
        self._device = device
        self.phase = Phase()
        self.steps_made = []
        self.of_prior = False
        self.means = RunningMeans()
        self.updates = 0
        generator = torch_generator(run.settings.seed, "method")
        self.agent = Agent(**self._agent_parts(module, optimizers, generator), twin=self._twin)
        self._pairs = self.agent.target_pairs()
        self.weights = [*module.parameters(), *module.buffers()]
        self._params = [param for optimizer in optimizers.values() for param in optimizer.param_groups[0]["params"]]
        self.method = run.method(run.keys, self.agent, run.settings.replay)

    def _agent_parts(self, module: ActorCritic, optimizers: Optimizers, generator: torch.Generator) -> dict[str, Any]:
        return {
            "networks": {name: getattr(module, name) for name in NETWORKS},
            "targets": {"qf": module.target_qf, "qf_twin": module.target_qf_twin},
            "optimizers": optimizers,
            "log_alpha": module.log_alpha,
            "generator": generator,
            "device": self._device,
            "act_dim": module.act_dim,
            "sac_losses": functools.partial(self._losses_of, module),
            "discrete": module.discrete,
            "init": self.run.model.init,
        }

    def _twin(self) -> Twin:
        module = copy.deepcopy(self.module)
        parts = self._agent_parts(module, adam_of(module, self.training), self.agent.generator)
        return Twin(module, self.training, self._target_period, **parts)

    # An update

    def __call__(self, columns: Mapping[str, Tensor], *, of_prior: bool = False) -> None:
        """Update on the rows of these columns, those of D_pre beside a batch at their end."""
        self.begin(of_prior=of_prior)
        for main in self.steps(columns):
            self.backward(self.loss(self.module.sac_pass(main)))
            self.adjust_gradients()
            self.step()
        self.finish()

    def begin(self, *, of_prior: bool) -> None:
        """What Python has to do before an update's steps, whether or not it makes these itself.

        Args:
            of_prior: whether all of its rows come from D_pre; it is known without asking a device.
        """
        self.of_prior = of_prior
        self.steps_made = []
        self.method.on_update_start()

    def finish(self) -> None:
        """What Python has to do behind an update's steps."""
        self.updates += 1
        for names, values in self.steps_made:
            self.means.add(names, values, of_prior=self.of_prior)
        self.method.on_update_end()

    def steps(self, columns: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
        """The steps of an update on these rows, each to be made before the next: the columns that its pass is of.

        They are the arithmetic alone: whatever outlives them is on the device.
        """
        main = self.take(columns)
        interval = self.training.actor_interval if self.phase.sac_losses else 1
        if interval == 1:
            yield main
            return
        for moving in steps_of(self.updates + 1, interval):
            self.batch = dataclasses.replace(self.batch, moving=moving)
            yield {**main, "moving": moving}

    @property
    def steps_everything(self) -> bool:
        """Whether each step makes a gradient for every parameter; DistributedDataParallel waits for all of them."""
        return self.phase.sac_losses and self.training.actor_interval == 1

    def take(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Make these rows the update's; returns the columns that SAC's pass is of, without rows beside the batch."""
        columns = with_observations(columns)  # here, so that a frame goes to the device once
        rows = len(columns["rewards"])
        main = {name: column[: self._rows] for name, column in columns.items()} if rows > self._rows else dict(columns)
        self.batch = make_batch(main, of_prior=self.of_prior)
        if rows > self._rows:
            prior = {name: column[self._rows :] for name, column in columns.items()}
            self.batch.prior = make_batch(prior, of_prior=True)
        return main

    def loss(self, out: Mapping[str, Any]) -> Tensor:
        """A step's losses plus the method's terms, from `sac_pass`; disjoint graphs: one backward is exact."""
        self.batch.activations = out.get("activations", {})
        terms = self._losses(self.module, self.batch, out) if self.phase.sac_losses else {}
        numbers = {f"{name}_loss": term.detach() for name, term in terms.items()}
        if "logp" in out:
            numbers["entropy"] = -out["logp"].detach().mean()
        if "q" in out:
            numbers["q_mean"] = out["q"].detach().mean()
        with self.module.autocast():
            of_method = self.method.loss_terms(self.batch)
        for name, term in of_method.items():
            if name not in self.batch.moving:
                continue
            numbers[f"{name}_method_loss"] = term.detach()
            terms[name] = terms[name] + term if name in terms else term
        total = functools.reduce(torch.add, terms.values()) if terms else torch.zeros((), device=self._device)
        numbers["total_loss"] = total.detach()
        self.steps_made.append((tuple(numbers), list(numbers.values())))
        return total

    def backward(self, loss: Tensor) -> None:
        """One backward pass for everything; with several Learners their mean is taken in here."""
        for param in self._params:
            param.grad = None
        loss.backward()
        if not self.steps_everything:
            for param in self._params:
                if param.grad is not None:
                    self.agent.all_reduce_mean(param.grad)

    def adjust_gradients(self) -> None:
        """The method's gradient hook, then clipping; both in place on `.grad`."""
        self.method.transform_gradients(self.batch)
        if self.training.grad_clip is not None:
            for network in self.agent.networks.values():
                torch.nn.utils.clip_grad_norm_(network.parameters(), self.training.grad_clip)

    def step(self) -> None:
        """Step the optimizers from the same weights, the method's hook, then behind the critics the target networks."""
        for name in self.batch.moving:
            self.agent.optimizers[name].step()
        self.method.after_step(self.batch)
        if "qf" in self.batch.moving and self._moves_targets:
            with torch.no_grad():
                torch._foreach_lerp_(*self._pairs, self.training.tau)

    @property
    def _moves_targets(self) -> bool:
        """Whether the update that is being made does."""
        return (self.updates + 1) % self._target_period == 0

    # What `graphs.GraphedUpdates` asks

    def graph_key(self) -> Hashable | None:
        """What, beside its rows' shapes, the kernels of the update that begins depend on; None: not to be recorded."""
        methods = self.method.graph_key(of_prior=self.of_prior)
        if methods is None:
            return None
        moves_actor = (self.updates + 1) % self.training.actor_interval == 0
        return self.phase, self._moves_targets, moves_actor, methods

    def generators(self) -> list[torch.Generator]:
        """What an update draws from on the device."""
        return [] if self.module.noise is None else [self.module.noise]

    # Losses

    def _losses(self, module: ActorCritic, batch: Batch, out: Mapping[str, Any]) -> dict[str, Tensor]:
        """SAC's losses of what the step moves, from a module's pass of a batch."""
        log_alpha = module.log_alpha
        alpha = log_alpha.detach().exp()
        terms = {}
        if "policy" in batch.moving:
            terms["policy"] = scaled(losses.actor_loss(out["logp"], out["q_policy"], alpha), self._actor_scale)
        if "qf" in batch.moving:
            target = losses.critic_target(
                scaled(batch.rewards, self.training.reward_scale),
                batch.terminateds,
                out["next_q"],
                out["next_logp"],
                alpha,
                self.training.gamma,
            )
            terms["qf"] = losses.critic_loss(out["q"], target)
            terms["qf_twin"] = losses.critic_loss(out["q_twin"], target)
        if "alpha" in batch.moving:
            loss = losses.temperature_loss(log_alpha, out["logp"], self._target_entropy)
            terms["alpha"] = scaled(loss, self._actor_scale)
        return terms

    def _losses_of(self, module: ActorCritic, batch: Batch) -> dict[str, Tensor]:
        """The same of other rows or another module; the pass goes around DistributedDataParallel."""
        columns = {"obs": batch.obs, "actions": batch.actions, "new_obs": batch.next_obs, "task": batch.task}
        return self._losses(module, batch, module.sac_pass({**columns, "moving": batch.moving}))

    # Beside the updates

    def check_finite(self) -> None:
        """Look at the last loss; once a call, as a look at every update would cost a device synchronisation for each.

        Raises:
            FloatingPointError: if it is not finite, naming the terms.
        """
        names, values = self.steps_made[-1]
        if not math.isfinite(values[names.index("total_loss")]):
            terms = {name: float(value) for name, value in zip(names, values, strict=True) if name.endswith("loss")}
            raise FloatingPointError(f"update {self.updates}: the loss is not finite: {terms}")

    def boundary_reset(self, boundary: BoundarySettings) -> None:
        """Reset what the boundary policy says; networks are always kept."""
        if boundary.reset_optimizer:
            for optimizer in self.agent.optimizers.values():
                optimizer.state.clear()  # moments and step counts: zeroed moments alone would overshoot 6.6 times
        with torch.no_grad():
            if boundary.reset_alpha:
                self.agent.log_alpha.fill_(float(np.log(self.training.initial_alpha)))
            if boundary.sync_target:
                torch._foreach_copy_(*self._pairs)

    @torch.no_grad()
    def report(self) -> dict[str, float]:
        """Means over the updates since the last report, the temperature as it is, and the method's own numbers."""
        return {
            **self.means.take(),
            "alpha": float(self.agent.log_alpha.exp()),
            "masked_frac": 0.0,
            **self.method.metrics(),
        }

    def get_state(self) -> dict[str, Any]:
        """All but weights and optimizers: the method's state, counts and sums, and the generators' states."""
        return {
            "method": self.method.get_state(),
            "updates": self.updates,
            "method_generator": self.agent.generator.get_state().numpy(),
            "noise": self.module.noise_state(),
            "means": self.means.get_state(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `get_state` gave."""
        self.method.set_state(state["method"])
        self.updates = state["updates"]
        self.agent.generator.set_state(torch.from_numpy(np.ascontiguousarray(state["method_generator"])))
        self.module.set_noise_state(state["noise"], self._device)
        self.means.set_state(state["means"], self._device)


def scaled(values: Tensor, factor: float) -> Tensor:
    """The product; with a factor of 1, which changes nothing, the values."""
    return values if factor == 1.0 else factor * values


def adam_of(module: ActorCritic, training: TrainingSettings) -> dict[str, torch.optim.Optimizer]:
    """Adam for each network and the temperature, which does not decay; fused, one kernel a step."""
    beta1, beta2 = training.adam_betas
    rates = {"policy": training.actor_lr, "qf": training.critic_lr, "qf_twin": training.critic_lr}
    parameters = {name: list(getattr(module, name).parameters()) for name in NETWORKS}
    rates["alpha"], parameters["alpha"] = training.alpha_lr, [module.log_alpha]
    return {
        name: torch.optim.Adam(
            params,
            lr=rates[name],
            betas=(beta1, beta2),
            eps=training.adam_eps,
            weight_decay=0.0 if name == "alpha" else training.weight_decay,
            fused=True,
            capturable=module.log_alpha.is_cuda,  # its step can be recorded as part of a CUDA graph
        )
        for name, params in parameters.items()
    }
