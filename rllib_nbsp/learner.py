"""RLlib's Learner for our SAC: one backward pass, the method's hooks at fixed places, then the target networks."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from ray.rllib.core import COMPONENT_OPTIMIZER, DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from torch import Tensor

from rllib_nbsp import losses
from rllib_nbsp.checks import training_of
from rllib_nbsp.curriculum import Visit
from rllib_nbsp.methods import METHODS
from rllib_nbsp.methods.base import NETWORKS, Agent, Batch, Phase, VisitData, make_batch
from rllib_nbsp.methods.twin import Twin
from rllib_nbsp.networks import activities
from rllib_nbsp.neurons import NeuronScores, dormant_frac, layer_statistics
from rllib_nbsp.seeding import torch_generator
from rllib_nbsp.settings import BoundarySettings, RunSettings, TrainingSettings

CONTINUAL = "continual"


class ContinualSACTorchLearner(TorchLearner):
    """SAC's update with a continual-learning method in it.

    Built on `TorchLearner`, not on RLlib's `SACTorchLearner`: all that it adds (Huber loss, four backward passes, a
    temperature outside the module, target networks that move once a call) is replaced here.
    """

    def build(self) -> None:
        """Build module and optimizers, then the method."""
        self.run: RunSettings = self.config.settings
        self.training = training_of(self.run)
        torch.set_num_threads(self.run.resources.torch_threads)
        super().build()
        module = self._sac
        target_entropy = self.training.target_entropy
        self._target_entropy = module.default_target_entropy if target_entropy is None else target_entropy
        # CleanRL takes the mean over batch *and* actions of what is a sum over actions.
        self._actor_scale = 1.0 / module.act_dim if module.discrete and self.training.discrete_reduce == "mean" else 1.0
        self._updates = 0
        self._phase = Phase()
        self._last: dict[str, Tensor] = {}
        self._batch: Batch
        self._target_period = max(1, round(self.training.target_update_env_steps * self.training.updates_per_env_step))
        generator = torch_generator(self.run.seed, "method")
        optimizers = {name: self.get_optimizer(DEFAULT_MODULE_ID, name) for name in (*NETWORKS, "alpha")}
        self.agent = Agent(**self._agent_parts(module, optimizers, generator), twin=self._twin)
        self._pairs = self.agent.target_pairs()
        method = METHODS[self.run.method]
        self.method = method(method.Config(**self.run.method_settings), self.agent, self.run.replay)

    def _agent_parts(
        self, module: Any, optimizers: dict[str, torch.optim.Optimizer], generator: torch.Generator
    ) -> dict[str, Any]:
        return {
            "networks": {name: getattr(module, name) for name in NETWORKS},
            "targets": {"qf": module.target_qf, "qf_twin": module.target_qf_twin},
            "optimizers": optimizers,
            "log_alpha": module.log_alpha,
            "generator": generator,
            "device": torch.device(self._device),
            "act_dim": module.act_dim,
            "sac_losses": functools.partial(self._sac_losses_of, module),
            "discrete": module.discrete,
        }

    def _twin(self) -> Twin:
        module = copy.deepcopy(self._sac)
        parts = self._agent_parts(module, adam_of(module, self.training), self.agent.generator)
        return Twin(module, self.training, self._target_period, **parts)

    @property
    def _sac(self) -> Any:
        """Our module, without the wrapper that several Learners put around it."""
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Register the optimizers with RLlib."""
        optimizers = adam_of(self.module[module_id].unwrapped(), training_of(self.config.settings))
        for name, optimizer in optimizers.items():
            group = optimizer.param_groups[0]
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=optimizer,
                params=group["params"],
                lr_or_lr_schedule=group["lr"],
            )

    # An update

    def update(
        self,
        batch: Any = None,
        *,
        training_data: TrainingData | None = None,
        minibatch_size: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """One update for every `minibatch_size` rows of the batch, in order.

        RLlib's own loop slices and concatenates a `SampleBatch` and logs a dozen metrics for each minibatch, which
        costs more than the target networks' update. Metrics are read by `report` when they are wanted.

        Raises:
            FloatingPointError: if the loss is not finite, naming the terms.
        """
        data = training_data or TrainingData(batch=batch)
        data.validate()
        data.solve_refs()
        columns = {
            name: torch.as_tensor(column, device=self._device)
            for name, column in data.batch.policy_batches[DEFAULT_MODULE_ID].items()
        }
        rows = len(columns["rewards"])
        size = minibatch_size or rows
        with self._synchronisation():
            for start in range(0, rows, size):
                part = {name: column[start : start + size] for name, column in columns.items()}
                self._update({DEFAULT_MODULE_ID: self._split_off_prior(part)})
        self._weights_seq_no += 1
        self._check_finite()
        return {}

    def _synchronisation(self) -> AbstractContextManager[None]:
        # DistributedDataParallel waits for the gradient of every parameter; without SAC's losses some have none.
        if self._phase.sac_losses or not self.distributed:
            return contextlib.nullcontext()
        return self.module[DEFAULT_MODULE_ID].no_sync()

    def _split_off_prior(self, columns: dict[str, Tensor]) -> dict[str, Any]:
        """Take the rows of D_pre that stand beside a batch off its end."""
        size = self.run.training.batch_size // max(1, self.config.num_learners)
        rows = len(columns["rewards"])
        main = {name: column[:size] for name, column in columns.items()} if rows > size else columns
        self._batch = make_batch(main)
        if rows > size:
            self._batch.prior = make_batch({name: column[size:] for name, column in columns.items()})
        return main

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: Any, fwd_out: dict[str, Any]) -> Tensor:
        """SAC's losses plus the method's terms; their graphs are disjoint, so one backward is exact."""
        self._batch.activations = fwd_out.get("activations", {})
        terms = self._sac_losses(self._sac, self._batch, fwd_out) if self._phase.sac_losses else {}
        self._last = {f"{name}_loss": term.detach() for name, term in terms.items()}
        self._last["logp"], self._last["q"] = fwd_out["logp"].detach(), fwd_out["q"].detach()
        for name, term in self.method.loss_terms(self._batch).items():
            self._last[f"{name}_method_loss"] = term.detach()
            terms[name] = terms[name] + term if name in terms else term
        total = sum(terms.values(), start=torch.zeros((), device=self._device))
        self._last["total_loss"] = total.detach()
        return total

    def _sac_losses(self, module: Any, batch: Batch, fwd_out: dict[str, Any]) -> dict[str, Tensor]:
        """SAC's four losses from a module's forward pass of a batch."""
        log_alpha = module.log_alpha
        alpha = log_alpha.detach().exp()
        target = losses.critic_target(
            self.training.reward_scale * batch.rewards,
            batch.terminateds,
            fwd_out["next_q"],
            fwd_out["next_logp"],
            alpha,
            self.training.gamma,
        )
        return {
            "policy": self._actor_scale * losses.actor_loss(fwd_out["logp"], fwd_out["q_policy"], alpha),
            "qf": losses.critic_loss(fwd_out["q"], target),
            "qf_twin": losses.critic_loss(fwd_out["q_twin"], target),
            "alpha": self._actor_scale * losses.temperature_loss(log_alpha, fwd_out["logp"], self._target_entropy),
        }

    def _sac_losses_of(self, module: Any, batch: Batch) -> dict[str, Tensor]:
        """The same of other rows or another module; the pass goes around DistributedDataParallel."""
        columns = {
            Columns.OBS: batch.obs,
            Columns.ACTIONS: batch.actions,
            Columns.NEXT_OBS: batch.next_obs,
            "task": batch.task,
        }
        return self._sac_losses(module, batch, module.forward_train(columns))

    def compute_gradients(self, loss_per_module: dict[str, Tensor], **kwargs: Any) -> dict[Any, Tensor]:
        """One backward pass for everything; with several Learners their mean is taken in here."""
        for param in self._params:
            param.grad = None
        loss_per_module[DEFAULT_MODULE_ID].backward()
        if not self._phase.sac_losses:
            for param in self._params:
                if param.grad is not None:
                    self.agent.all_reduce_mean(param.grad)
        return {param: param.grad for param in self._params}

    def postprocess_gradients_for_module(
        self, *, module_id: str, config: Any = None, module_gradients_dict: dict[Any, Tensor]
    ) -> dict[Any, Tensor]:
        """The method's gradient hook, then clipping; both in place on `.grad`."""
        self.method.transform_gradients(self._batch)
        clip = self.training.grad_clip
        if clip is not None:
            for network in self.agent.networks.values():
                torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        return module_gradients_dict

    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Step every optimizer from the same weights, the method's hook, then the target networks."""
        for optimizer in self.agent.optimizers.values():
            optimizer.step()
        self.method.after_step(self._batch)
        self._updates += 1
        if self._updates % self._target_period == 0:
            with torch.no_grad():
                torch._foreach_lerp_(self._pairs[0], self._pairs[1], self.training.tau)

    def _check_finite(self) -> None:
        # Once a call: a look at every gradient would cost a device synchronisation for each.
        if not bool(torch.isfinite(self._last["total_loss"])):
            terms = {name: float(value) for name, value in self._last.items() if name.endswith("loss")}
            raise FloatingPointError(f"update {self._updates}: the loss is not finite: {terms}")

    # A visit, as the driver directs it

    def visit_start(self, visit: Visit, data: VisitData | None) -> None:
        """The method's `on_visit_start`."""
        self.method.on_visit_start(visit, data)

    def phase_start(self, visit: Visit, phase: Phase) -> None:
        """From here on, updates belong to this phase."""
        self._phase = phase
        self.method.on_phase_start(visit, phase)

    def resume_phase(self, phase: Phase) -> None:
        """Updates belong to this phase, which a restored state is in the middle of."""
        self._phase = phase

    def phase_end(self, visit: Visit, phase: Phase, data: VisitData) -> None:
        """The method's `on_phase_end`."""
        self.method.on_phase_end(visit, phase, data)
        self._phase = Phase()

    def visit_end(self, visit: Visit, data: VisitData) -> None:
        """The method's `on_visit_end`."""
        self.method.on_visit_end(visit, data)

    def boundary_reset(self, boundary: BoundarySettings) -> None:
        """Reset what the boundary policy says; networks are always kept."""
        if boundary.reset_optimizer:
            for optimizer in self.agent.optimizers.values():
                optimizer.state.clear()  # moments and step counts: zeroed moments alone would overshoot 6.6 times
        if boundary.reset_alpha:
            with torch.no_grad():
                self.agent.log_alpha.fill_(float(np.log(self.training.initial_alpha)))
        if boundary.sync_target:
            with torch.no_grad():
                torch._foreach_copy_(self._pairs[0], self._pairs[1])

    @torch.no_grad()
    def score_neurons(
        self,
        chunks: Sequence[dict[str, Any]],
        mean_chunks: Sequence[dict[str, Any]] | None,
        label_rate: float,
        task: int = 0,
    ) -> NeuronScores:
        """Score every hidden neuron on a rollout (Eq. 1-3).

        Args:
            chunks: columns obs (arrays or `StackedFrames`), actions and labels, each chunk of bounded size.
            mean_chunks: a second rollout for the standard activations, or None.
            label_rate: share of labels that are true.
            task: index of the task of the rollouts.
        """
        labels = [torch.from_numpy(chunk["labels"]) for chunk in chunks]
        layers = {
            name: layer_statistics(
                self._activities(name, chunks, task),
                labels,
                self._activities(name, mean_chunks, task) if mean_chunks else None,
            )
            for name in NETWORKS
        }
        layers = {
            name: [type(s)(**{key: value.cpu() for key, value in vars(s).items()}) for s in stats]
            for name, stats in layers.items()
        }
        return NeuronScores(layers, label_rate, sum(len(label) for label in labels))

    def _activities(self, name: str, chunks: Sequence[dict[str, Any]], task: int) -> Callable[[], Any]:
        network = self.agent.networks[name]

        def passes() -> Any:
            for chunk in chunks:
                obs = torch.as_tensor(np.asarray(chunk["obs"]), device=self._device)
                actions = torch.as_tensor(chunk["actions"], device=self._device)
                record: list[Tensor] = []
                network(obs if name == "policy" else self.agent.critic_inputs(obs, actions), task=task, record=record)
                yield [activities(hidden) for hidden in record]

        return passes

    # Reports and state

    @torch.no_grad()
    def report(self, obs: np.ndarray | None = None, task: int = 0) -> dict[str, float]:
        """Numbers of the last update, the method's own, and the share of dormant actor neurons on a task's `obs`."""
        numbers = {name: float(value) for name, value in self._last.items() if value.dim() == 0}
        if "logp" in self._last:
            numbers |= {"entropy": -float(self._last["logp"].mean()), "q_mean": float(self._last["q"].mean())}
        numbers |= {"alpha": float(self.agent.log_alpha.exp()), "masked_frac": 0.0, **self.method.metrics()}
        if obs is not None:
            record: list[Tensor] = []
            self.agent.networks["policy"](torch.as_tensor(obs, device=self._device), task=task, record=record)
            numbers["dormant_frac"] = dormant_frac(activities(hidden) for hidden in record)
        return numbers

    def method_arrays(self) -> dict[str, np.ndarray]:
        """What the method adds to `neurons/visit_NN.npz`."""
        return self.method.neuron_arrays()

    def weights(self) -> dict[str, np.ndarray]:
        """All weights of the module by name."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self._sac.state_dict().items()}

    def sizes(self) -> dict[str, int]:
        """What there is of this Learner: trainable parameters of the networks, and bytes.

        Bytes of the module (weights, targets, what a method holds in reserve there) and of the method's own state.
        """
        trained = [p for network in self.agent.networks.values() for p in network.parameters() if p.requires_grad]
        return {
            "trainable_parameters": sum(p.numel() for p in trained),
            "network_bytes": sum(array.nbytes for array in self.weights().values()),
            "method_bytes": _nbytes(self.method.get_state()),
        }

    def checksum(self) -> str:
        """SHA-256 over weights and the method's state, to compare Learners."""
        digest = hashlib.sha256()
        for name, array in sorted(self.weights().items()):
            digest.update(name.encode() + array.tobytes())
        _digest_into(digest, self.method.get_state())
        return digest.hexdigest()

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state plus what it forgets: the method's state, our counters and the noise."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(CONTINUAL, components, not_components):
            state[CONTINUAL] = {
                "method": self.method.get_state(),
                "updates": self._updates,
                "method_generator": self.agent.generator.get_state().numpy(),
                "noise": self._sac.noise_state(),
            }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Take a state back, an older one too: RLlib by itself keeps whichever weights are newer, silently."""
        self._weights_seq_no = 0
        if COMPONENT_OPTIMIZER in state:
            # A copy: optimizers would otherwise step inside the caller's arrays, read-only ones of Ray included.
            state = {**state, COMPONENT_OPTIMIZER: copy.deepcopy(state[COMPONENT_OPTIMIZER])}
        super().set_state(state)
        if CONTINUAL in state:
            ours = state[CONTINUAL]
            self.method.set_state(ours["method"])
            self._updates = ours["updates"]
            self.agent.generator.set_state(torch.from_numpy(np.ascontiguousarray(ours["method_generator"])))
            self._sac.set_noise_state(ours["noise"], torch.device(self._device))


def adam_of(module: Any, training: TrainingSettings) -> dict[str, torch.optim.Optimizer]:
    """Adam for each network and the temperature; fused, one kernel a step."""
    rates = {"policy": training.actor_lr, "qf": training.critic_lr, "qf_twin": training.critic_lr}
    parameters = {name: list(getattr(module, name).parameters()) for name in NETWORKS}
    rates["alpha"], parameters["alpha"] = training.alpha_lr, [module.log_alpha]
    return {
        name: torch.optim.Adam(params, lr=rates[name], eps=training.adam_eps, fused=True)
        for name, params in parameters.items()
    }


def call_learner(learner: Learner, name: str, args: Sequence[Any]) -> tuple[bool, Any]:
    """Call a Learner's method and return (True, value) or (False, error text).

    An exception must not leave a Learner by itself: RLlib would mark it unhealthy and skip it from then on, and the
    next update would wait for it forever.
    """
    import ray

    try:
        return True, getattr(learner, name)(*(_resolve(ray, arg) for arg in args))
    except Exception as error:  # reported to the driver, which raises it
        return False, f"{type(error).__name__}: {error}"


def _resolve(ray: Any, arg: Any) -> Any:
    if isinstance(arg, ray.ObjectRef):
        return ray.get(arg)
    if isinstance(arg, list):
        return [_resolve(ray, item) for item in arg]
    return arg


def _nbytes(value: Any) -> int:
    """Bytes of the tensors and arrays in a state."""
    if isinstance(value, dict | list | tuple):
        return sum(_nbytes(item) for item in (value.values() if isinstance(value, dict) else value))
    return value.nbytes if isinstance(value, Tensor | np.ndarray) else 0


def _digest_into(digest: Any, value: Any) -> None:
    if isinstance(value, dict):
        for key in sorted(value):
            digest.update(str(key).encode())
            _digest_into(digest, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            _digest_into(digest, item)
    elif isinstance(value, np.ndarray):
        digest.update(value.tobytes())
    elif isinstance(value, Tensor):
        digest.update(value.detach().cpu().numpy().tobytes())
    else:
        digest.update(repr(value).encode())
