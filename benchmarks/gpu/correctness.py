"""Whether a GPU computes what it should: what a CPU does, and with graphs what it does without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.methods import KEYS, MethodAtWork
from rllib_nbsp.methods import METHODS
from rllib_nbsp.nn.networks import NETWORKS
from rllib_nbsp.sac.learner import ContinualSACTorchLearner

CPU = {"graphs": "off"}
GPU = {"num_gpus_per_learner": 1.0}
EAGER = {**GPU, "graphs": "off"}
GRAPH = {**GPU, "graphs": "auto"}
AT_WORK: dict[str, dict[str, Any]] = {
    **KEYS,
    "redo": {"interval": 50, "threshold": 0.5},
    "cotasp": {"distill_updates": 20, "alternate": [30, 10]},
}
"""Keys with which every kind of update of a method comes about within some hundred."""
ROWS = 5_000


def at_work(name: str, hidden: int | list[int], resources: Mapping[str, Any], **more: Any) -> MethodAtWork:
    """A method in its second visit on a GPU or a CPU."""
    return MethodAtWork(name, AT_WORK.get(name, {}), hidden, ROWS, resources=resources, **more)


def graph_equals_eager(hidden: int, updates: int) -> dict[str, dict[str, Any]]:
    """Each method through a visit of so many updates, its boundary, and as many of the next visit, both ways.

    Returns:
        By method: `graphs`, or why not; how many updates were `replayed`; `equal`, whether weights, optimizers, method
        and generators are the same to the last bit, and if not, which `differ`, by how much at `most`.
    """
    found = {}
    for name in METHODS:
        eager = at_work(name, hidden, EAGER, updates=updates)
        why = eager.run.method.no_graph(eager.run.keys)
        if why is not None:
            found[name] = {"graphs": False, "why": why}
            continue
        graph = at_work(name, hidden, GRAPH, updates=updates)
        assert graph.learner.graphs is not None
        found[name] = {"graphs": True, "replayed": graph.learner.graphs.replayed, **compare(eager, graph)}
    return found


def compare(one: MethodAtWork, other: MethodAtWork) -> dict[str, Any]:
    """Whether two Learners' whole states are the same."""
    first, second = flat(one.learner.get_state()), flat(other.learner.get_state())
    differ = [key for key in first if not np.array_equal(first[key], second[key])]
    numbers = [key for key in differ if first[key].dtype.kind == "f"]
    return {
        "equal": not differ,
        "differ": differ[:8],
        "most": max((float(np.abs(first[key] - second[key]).max()) for key in numbers), default=0.0),
    }


def flat(state: Any, place: str = "") -> dict[str, np.ndarray]:
    """The arrays and numbers of a nested state by their place."""
    if isinstance(state, Mapping):
        return {k: v for key, item in state.items() for k, v in flat(item, f"{place}/{key}").items()}
    if isinstance(state, list | tuple):
        return {k: v for i, item in enumerate(state) for k, v in flat(item, f"{place}/{i}").items()}
    return {place: state.detach().cpu().numpy() if isinstance(state, Tensor) else np.asarray(state)}


def gpu_agrees_with_cpu(hidden: int, updates: int) -> dict[str, dict[str, float]]:
    """Each method on both, with the same noise put in.

    Returns:
        By method and network, `||w_gpu - w_cpu|| / ||w_cpu - w_0||`: the difference as a share of what was learned.
    """
    found = {}
    for name in METHODS:
        cpu, gpu = (with_given_noise(name, hidden, resources, updates) for resources in (CPU, EAGER))
        start = at_work(name, hidden, CPU, updates=0)
        found[name] = {network: _difference(cpu, gpu, start, network) for network in NETWORKS}
    return found


def with_given_noise(name: str, hidden: int, resources: Mapping[str, Any], updates: int) -> MethodAtWork:
    """A method in its second visit, after so many updates there whose noise was drawn on the CPU."""
    generator = torch.Generator().manual_seed(1)

    def prepare(learner: ContinualSACTorchLearner) -> None:
        def normal(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator).to(like.device)

        learner.sac.module._normal = normal  # type: ignore[method-assign]

    worker = at_work(name, hidden, resources, updates=0, prepare=prepare)
    for _ in range(updates):
        worker.update()
    return worker


def _difference(cpu: MethodAtWork, gpu: MethodAtWork, start: MethodAtWork, network: str) -> float:
    def weights(worker: MethodAtWork) -> np.ndarray:
        parameters = worker.learner.agent.networks[network].parameters()
        return np.concatenate([p.detach().cpu().double().numpy().ravel() for p in parameters])

    learned = np.linalg.norm(weights(cpu) - weights(start))
    return float(np.linalg.norm(weights(gpu) - weights(cpu)) / learned)


def resumes(hidden: int) -> dict[str, Any]:
    """Whether a Learner that takes over another's state half-way goes on as that one does, graphs and all."""
    one, other = (at_work("nbsp", hidden, GRAPH) for _ in range(2))
    for _ in range(20):
        one.update()
    other.learner.set_state(one.learner.get_state())
    batches = [one.sample() for _ in range(20)]
    for worker in (one, other):
        for columns in batches:
            worker.update_on(columns)
    return compare(one, other)


def host_waits(hidden: int) -> dict[str, Any]:
    """By method whether an update waits for the device, by CUDA's own account; keys are its defaults but for `KEYS`."""
    found: dict[str, Any] = {}
    for name in METHODS:
        worker = MethodAtWork(name, KEYS.get(name, {}), hidden, ROWS, resources=EAGER)
        columns = {key: torch.as_tensor(column, device="cuda") for key, column in worker.sample().items()}
        torch.cuda.set_sync_debug_mode("error")
        try:
            worker.learner.sac(columns, of_prior=False)
            found[name] = None
        except RuntimeError as error:
            found[name] = str(error).splitlines()[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return found
