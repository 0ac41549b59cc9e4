"""RLlib's Learner for our SAC: one backward pass a step, the method's hooks at fixed places, then the targets."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from ray.rllib.core import COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from torch import Tensor

from rllib_nbsp.curriculum import Phase, Visit
from rllib_nbsp.methods.agent import Agent, VisitData
from rllib_nbsp.methods.base import ContinualMethod
from rllib_nbsp.nn.networks import NETWORKS, activities
from rllib_nbsp.nn.neurons import NeuronScores, dormant_frac, layer_statistics
from rllib_nbsp.nn.significance import TURNS
from rllib_nbsp.plugins import exits_as_errors
from rllib_nbsp.run import ResolvedRun
from rllib_nbsp.sac.formats import check_formats
from rllib_nbsp.sac.graphs import CUDARecording, GraphedUpdates
from rllib_nbsp.sac.mechanism import Mechanism
from rllib_nbsp.sac.tape import CPURecording
from rllib_nbsp.sac.update import SACUpdate, adam_of
from rllib_nbsp.settings import BoundarySettings

CONTINUAL = "continual"


class ContinualSACTorchLearner(TorchLearner):
    """SAC's update with a continual-learning method in it.

    Built on `TorchLearner`, not on RLlib's `SACTorchLearner`: all that it adds (Huber loss, four backward passes, a
    temperature outside the module, target networks that move once a call) is replaced here.
    """

    @exits_as_errors()
    def build(self) -> None:
        """Build module and optimizers, then the agent and its method."""
        self.run = ResolvedRun(self.config.settings)
        torch.set_num_threads(self.run.settings.resources.torch_threads)
        super().build()
        check_formats(self.run.training, torch.device(self._device))
        # Of the whole process, which may have built another Learner before.
        torch.set_float32_matmul_precision("high" if self.run.training.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.run.training.tf32
        optimizers = {name: self.get_optimizer(DEFAULT_MODULE_ID, name) for name in (*NETWORKS, "alpha")}
        self.sac = SACUpdate(self.run, self._module_alone, optimizers, torch.device(self._device))
        every = self.run.settings.evaluation.mechanism_rows
        self.mechanism = Mechanism(self.agent, every) if every else None
        self._stream = torch.cuda.Stream(self._device) if self.agent.device.type == "cuda" else None
        self.graphs = self._graphed_updates()

    @property
    def agent(self) -> Agent:
        """What the method may touch."""
        return self.sac.agent

    @property
    def method(self) -> ContinualMethod:
        """The run's method, at work in this Learner."""
        return self.sac.method

    @property
    def _module_alone(self) -> Any:
        """Our module, without the wrapper that several Learners put around it."""
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Register the optimizers with RLlib."""
        for name, optimizer in adam_of(self.module[module_id].unwrapped(), self.run.training).items():
            group = optimizer.param_groups[0]
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                optimizer=optimizer,
                params=group["params"],
                lr_or_lr_schedule=group["lr"],
            )

    # An update

    @exits_as_errors()
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
        rows = data.batch.policy_batches[DEFAULT_MODULE_ID]
        size = minibatch_size or len(rows["rewards"])
        # Read here, where it still is on the host.
        of_prior = [part.all() for part in torch.as_tensor(rows["from_prior"]).split(size)]
        with self._synchronisation(), self._own_stream():
            columns = [torch.as_tensor(column, device=self.agent.device).split(size) for column in rows.values()]
            for *part, whether in zip(*columns, of_prior, strict=True):
                self.sac.begin(of_prior=bool(whether))
                (self.graphs or self._steps)(dict(zip(rows, part, strict=True)))
                self.sac.finish()
        self._weights_seq_no += 1
        self.sac.check_finite()
        return {}

    def _steps(self, columns: dict[str, Tensor]) -> None:
        """The arithmetic of an update, through RLlib's hooks."""
        for main in self.sac.steps(columns):
            self._update({DEFAULT_MODULE_ID: main})

    def _graphed_updates(self) -> GraphedUpdates | None:
        """What replays updates, where that can be and is wanted."""
        if not self.run.uses_graphs:
            return None
        if self.agent.device.type == "cpu":
            return GraphedUpdates(self.sac, self._steps, CPURecording)
        pool = torch.cuda.graph_pool_handle()
        return GraphedUpdates(self.sac, self._steps, lambda: CUDARecording(pool))

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """A CUDA stream that is not the default one, which cannot be recorded; everything else waits for it."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream().wait_stream(self._stream)

    def _forget_graphs(self) -> None:
        if self.graphs is not None:
            self.graphs.forget()

    def _synchronisation(self) -> AbstractContextManager[None]:
        # Without it, `SACUpdate.backward` takes the mean.
        if self.sac.steps_everything or not self.distributed:
            return contextlib.nullcontext()
        return self.module[DEFAULT_MODULE_ID].no_sync()

    # RLlib's hooks, in the order in which its `_update` calls them after the forward pass of a step

    def compute_loss_for_module(self, *, module_id: str, config: Any, batch: Any, fwd_out: dict[str, Any]) -> Tensor:
        """SAC's losses plus the method's terms."""
        return self.sac.loss(fwd_out)

    def compute_gradients(self, loss_per_module: dict[str, Tensor], **kwargs: Any) -> dict[Any, Tensor]:
        """One backward pass for everything."""
        self.sac.backward(loss_per_module[DEFAULT_MODULE_ID])
        return {param: param.grad for param in self._params}

    def postprocess_gradients_for_module(
        self, *, module_id: str, config: Any = None, module_gradients_dict: dict[Any, Tensor]
    ) -> dict[Any, Tensor]:
        """The method's gradient hook, then clipping; both in place on `.grad`."""
        self.sac.adjust_gradients()
        return module_gradients_dict

    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        """Step the optimizers from the same weights, the method's hook, then the target networks."""
        self.sac.step()

    # A visit, as the driver directs it

    def visit_start(self, visit: Visit, data: VisitData | None) -> None:
        """The method's `on_visit_start`."""
        self._forget_graphs()
        self.method.on_visit_start(visit, data)
        if self.mechanism is not None:
            self.mechanism.visit_start(self.sac.updates)

    def phase_start(self, visit: Visit, phase: Phase) -> None:
        """From here on, updates belong to this phase."""
        self._forget_graphs()
        self.sac.phase = phase
        self.method.on_phase_start(visit, phase)

    def resume_phase(self, phase: Phase) -> None:
        """Updates belong to this phase, which a restored state is in the middle of."""
        self.sac.phase = phase

    def phase_end(self, visit: Visit, phase: Phase, data: VisitData) -> None:
        """The method's `on_phase_end`."""
        self._forget_graphs()
        self.method.on_phase_end(visit, phase, data)
        self.sac.phase = Phase()

    def visit_end(self, visit: Visit, data: VisitData) -> None:
        """The method's `on_visit_end`."""
        self._forget_graphs()
        self.method.on_visit_end(visit, data)

    def boundary_reset(self, boundary: BoundarySettings) -> None:
        """Reset what the boundary policy says; networks are always kept."""
        self._forget_graphs()
        self.sac.boundary_reset(boundary)

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
            chunks: columns obs (arrays or `StackedFrames`), actions and labels, each chunk of bounded size; and turned,
                as `LabelledRollout` has it, for p-values.
            mean_chunks: a second rollout for the standard activations, or None.
            label_rate: share of labels that are true.
            task: index of the task of the rollouts.
        """
        labels = [torch.from_numpy(chunk["labels"]) for chunk in chunks]
        turned = None
        if "turned" in chunks[0]:
            turned = [torch.from_numpy(np.unpackbits(c["turned"], axis=1, count=TURNS)) for c in chunks]
        layers = {
            name: layer_statistics(
                self._activities(name, chunks, task),
                labels,
                self._activities(name, mean_chunks, task) if mean_chunks else None,
                turned,
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
    def report(self, rows: Mapping[str, np.ndarray] | None = None, task: int = 0) -> dict[str, float]:
        """The numbers of a training row: means since the last one, the method's, and how the networks fare.

        Args:
            rows: columns "obs" and "actions" of a task, that the networks are looked at on; None: they are not.
            task: its index.
        """
        numbers = self.sac.report()
        if rows is not None:
            record: list[Tensor] = []
            self.agent.networks["policy"](torch.as_tensor(rows["obs"], device=self._device), task=task, record=record)
            numbers["dormant_frac"] = dormant_frac(activities(hidden) for hidden in record)
        if self.mechanism is not None:
            numbers |= self.mechanism.row(rows, task, self.sac.updates)
        return numbers

    def method_numbers(self) -> dict[str, float]:
        """What the method adds to a training row."""
        return self.method.metrics()

    def method_arrays(self) -> dict[str, np.ndarray]:
        """What the method adds to `neurons/visit_NN.npz`."""
        return self.method.neuron_arrays()

    def weights(self) -> dict[str, np.ndarray]:
        """All weights of the module by name."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self._module_alone.state_dict().items()}

    def acting_weights(self) -> np.ndarray:
        """What rollout workers act with, as `ContinualEnvRunner.take_weights` has it."""
        return self._module_alone.acting_weights()

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

    def kept_state(self) -> dict[str, Any]:
        """What `set_state` needs for all that follows to be the same."""
        kept = (COMPONENT_RL_MODULE, COMPONENT_OPTIMIZER, CONTINUAL)
        state = self.get_state(kept)
        return {name: state[name] for name in kept}

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state plus what it forgets: the method's state, our counters and the noise."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(CONTINUAL, components, not_components):
            mechanism = {} if self.mechanism is None else {"mechanism": self.mechanism.get_state()}
            state[CONTINUAL] = {**self.sac.get_state(), **mechanism}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Take a state back, an older one too: RLlib by itself keeps whichever weights are newer, silently."""
        self._weights_seq_no = 0
        if COMPONENT_OPTIMIZER in state:
            # A copy: optimizers would otherwise step inside the caller's arrays, read-only ones of Ray included.
            state = {**state, COMPONENT_OPTIMIZER: copy.deepcopy(state[COMPONENT_OPTIMIZER])}
        super().set_state(state)
        for optimizer in self.agent.optimizers.values():
            for group in optimizer.param_groups:
                group["capturable"] = self.agent.device.type == "cuda"  # the state may come from another device
        if CONTINUAL in state:
            self.sac.set_state(state[CONTINUAL])
            if self.mechanism is not None and "mechanism" in state[CONTINUAL]:
                self.mechanism.set_state(state[CONTINUAL]["mechanism"])
            elif self.mechanism is not None:  # of an earlier version
                self.mechanism.visit_start(self.sac.updates)
        self._forget_graphs()


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
