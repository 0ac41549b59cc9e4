"""Continual deep reinforcement learning on Ray RLlib: NBSP (Lan et al. 2025) and the methods it is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["NBSP", "ContinualSAC", "ContinualSACConfig", "NBSPConfig", "__version__", "register"]

if TYPE_CHECKING:
    from rllib_nbsp.algorithm import NBSP, ContinualSAC, register
    from rllib_nbsp.algorithm_config import ContinualSACConfig, NBSPConfig


def __getattr__(name: str) -> Any:
    # Ray takes seconds to import; the parts that do not need it must not wait for it.
    if name in __all__:
        from rllib_nbsp import algorithm

        return getattr(algorithm, name)
    raise AttributeError(f"module 'rllib_nbsp' has no attribute {name!r}")
