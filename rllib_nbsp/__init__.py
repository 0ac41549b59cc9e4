"""Continual deep reinforcement learning on Ray RLlib: NBSP (Lan et al. 2025) and the methods it is compared with."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rllib_nbsp.version import __version__

__all__ = [
    "NBSP",
    "ContinualSAC",
    "ContinualSACConfig",
    "NBSPConfig",
    "__version__",
    "load_policy",
    "register",
    "register_method",
    "register_suite",
    "runtime_env",
]

if TYPE_CHECKING:
    from rllib_nbsp.algorithm import NBSP, ContinualSAC, register
    from rllib_nbsp.algorithm_config import ContinualSACConfig, NBSPConfig
    from rllib_nbsp.envs import register_suite
    from rllib_nbsp.methods import register_method
    from rllib_nbsp.plugins import runtime_env
    from rllib_nbsp.policy import load_policy

_HOMES = {"register_method": "methods", "register_suite": "envs", "runtime_env": "plugins", "load_policy": "policy"}


def __getattr__(name: str) -> Any:
    # Ray takes seconds to import; the parts that do not need it must not wait for it.
    if name in __all__:
        return getattr(importlib.import_module(f"rllib_nbsp.{_HOMES.get(name, 'algorithm')}"), name)
    raise AttributeError(f"module 'rllib_nbsp' has no attribute {name!r}")
