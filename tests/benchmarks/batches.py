"""Random batches of the benchmarks' tests, and a Learner to update with them."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.spaces import Box
from ray.rllib.core import DEFAULT_MODULE_ID

from benchmarks.ours import sac_config
from benchmarks.plain_sac import Batch
from rllib_nbsp.sac.learner import ContinualSACTorchLearner

OBS, ACT, ROWS, HIDDEN = 3, 2, 16, (8, 8)


def random_batch(rows: int = ROWS) -> Batch:
    """A batch as the plain loop takes it."""
    return Batch(
        obs=torch.randn(rows, OBS),
        actions=torch.rand(rows, ACT) * 2 - 1,
        rewards=torch.randn(rows),
        next_obs=torch.randn(rows, OBS),
        terminateds=(torch.rand(rows) < 0.3).float(),
    )


def make_learner() -> ContinualSACTorchLearner:
    """A Learner without a cluster."""
    config = sac_config(HIDDEN, ROWS).training(batch_size=ROWS)
    learner = config.build_learner(spaces={DEFAULT_MODULE_ID: (Box(-1, 1, (OBS,)), Box(-1, 1, (ACT,)))})
    assert isinstance(learner, ContinualSACTorchLearner)
    return learner


def learner_columns() -> dict[str, np.ndarray]:
    """The same, as our Learner takes it."""
    batch = random_batch()
    return {
        "obs": batch.obs.numpy(),
        "actions": batch.actions.numpy(),
        "rewards": batch.rewards.numpy(),
        "new_obs": batch.next_obs.numpy(),
        "terminateds": batch.terminateds.numpy().astype(bool),
        "task": np.zeros(ROWS, np.int64),
        "from_prior": np.zeros(ROWS, bool),
    }


def game_columns(rows: int) -> dict[str, np.ndarray]:
    """Rows of a game as the Learner takes them."""
    images: dict[str, np.ndarray] = {
        name: np.random.randint(0, 256, (rows, 4, 84, 84), np.uint8) for name in ("obs", "new_obs")
    }
    rest: dict[str, np.ndarray] = {
        "actions": np.random.randint(0, 6, rows),
        "rewards": np.random.randn(rows).astype(np.float32),
    }
    labels = {"task": np.zeros(rows, np.int64), "from_prior": np.zeros(rows, bool)}
    return {**images, **rest, "terminateds": np.random.rand(rows) < 0.3, **labels}
