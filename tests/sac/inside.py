"""What the tests of SAC hand to a Learner in one call, and what they read off its parameters and optimizers."""

from __future__ import annotations

import numpy as np
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor

from rllib_nbsp.sac.learner import ContinualSACTorchLearner


def stacked(*batches: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Batches one after the other, as one call brings them."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def gradients(learner: ContinualSACTorchLearner) -> dict[str, Tensor]:
    """Gradients as the optimizers saw them."""
    module = learner.module[DEFAULT_MODULE_ID]
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def optimizer_steps(learner: ContinualSACTorchLearner) -> set[float]:
    """The step counts that the optimizers hold."""
    return {float(s["step"]) for o in learner.agent.optimizers.values() for s in o.state.values()}
