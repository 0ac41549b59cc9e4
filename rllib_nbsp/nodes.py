"""What is asked of every node of a cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rllib_nbsp.plugins import PluginError, import_plugins

TIMEOUT_S = 180.0  # a busy machine takes a minute to start a process that imports torch


def blind_to(path: Path) -> list[str]:
    """The names of the nodes that do not see a file."""
    return [node for node, sees in _on_every_node(_exists, str(path)) if not sees]


def import_errors(modules: Sequence[str]) -> list[str]:
    """A line for each node on which one of a run's modules cannot be imported."""
    found = _on_every_node(_import_error, list(modules)) if modules else []
    return [f"on node {node}: {error}" for node, error in found if error]


def _on_every_node(task: Any, argument: Any) -> list[tuple[str, Any]]:
    """The name of each node, and what a remote function returns there.

    Raises:
        TimeoutError: if a node does not answer.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(argument)
        for node in nodes
    ]
    names = [node["NodeManagerHostname"] for node in nodes]
    late = ray.wait(asked, num_returns=len(asked), timeout=TIMEOUT_S)[1]
    if late:
        hosts = ", ".join(name for name, answer in zip(names, asked, strict=True) if answer in late)
        raise TimeoutError(
            f"no process could be started within {TIMEOUT_S:.0f} s on {hosts}; is the machine overloaded?"
        )
    return list(zip(names, ray.get(asked), strict=True))


@ray.remote(num_cpus=0)
def _exists(path: str) -> bool:
    return os.path.exists(path)


@ray.remote(num_cpus=0)
def _import_error(modules: list[str]) -> str | None:
    try:
        import_plugins(modules)
    except PluginError as error:
        return str(error)
    return None
