"""RLlib's own SAC, as its users run it on one core: uniform `EpisodeReplayBuffer`, local runner, local Learner.

Its actor has the contenders' hidden layers. Its critics do not, although they are built from the same `fcnet_hiddens`:
RLlib's continuous critic encodes observation and action in two perceptrons of these widths and fuses them in a third
with skip connections, three to four times the work of the MLP that the others use. That is stock RLlib, and the table's
GFLOP column shows it. `mlp_critics=True` exchanges that encoder for the others' MLP through RLlib's catalog and leaves
everything else, so that the two causes of a difference, more arithmetic and more overhead, can be told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.sac.sac_catalog import SACCatalog
from ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module import DefaultSACTorchRLModule
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.models.base import ENCODER_OUT
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.metrics import NUM_MODULE_STEPS_TRAINED_LIFETIME as MODULE_STEPS
from ray.tune.registry import register_env
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contender import BATCH_SIZE, Window, make_env, train_for
from benchmarks.plain_sac import mlp

ENV_NAME = "benchmark_metaworld"


class ConcatEncoder(nn.Module):
    """Observation and action side by side through the hidden layers; RLlib's head makes a value of it."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.net = nn.Sequential(mlp(widths), nn.ReLU())

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """RLlib's interface of encoders."""
        return {ENCODER_OUT: self.net(torch.cat([batch[Columns.OBS], batch[Columns.ACTIONS]], dim=-1))}


class ConcatCatalog(SACCatalog):
    """RLlib's catalog with `ConcatEncoder` for the critics."""

    def build_qf_encoder(self, framework: str) -> nn.Module:
        """A critic's hidden layers."""
        inputs = self.observation_space.shape[0] + self.action_space.shape[0]
        return ConcatEncoder([inputs, *self._model_config_dict["fcnet_hiddens"]])


def stock_config(hidden: Sequence[int], warmup_env_steps: int, mlp_critics: bool, seed: int) -> SACConfig:
    """One update of `BATCH_SIZE` per environment step; learning rates as everybody's here."""
    model: dict[str, Any] = {"fcnet_hiddens": list(hidden), "fcnet_activation": "relu", "head_fcnet_hiddens": []}
    catalog = ConcatCatalog if mlp_critics else SACCatalog
    return (
        SACConfig()
        .environment(ENV_NAME)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=1, rollout_fragment_length=1)
        .learners(num_learners=0)
        .training(
            actor_lr=3e-4,
            critic_lr=1e-3,
            alpha_lr=1e-3,
            train_batch_size_per_learner=BATCH_SIZE,
            num_steps_sampled_before_learning_starts=warmup_env_steps,
            replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": 1_000_000},
        )
        .rl_module(
            model_config=model,
            rl_module_spec=RLModuleSpec(module_class=DefaultSACTorchRLModule, catalog_class=catalog),
        )
        # An iteration collects and reports metrics, which costs RLlib some ten ms: not after every step.
        .reporting(min_time_s_per_iteration=0.5, min_sample_timesteps_per_iteration=1)
        .debugging(seed=seed, log_level="ERROR")
    )


class StockRLlib:
    """RLlib's SAC, trained by `algo.train()`."""

    passes = "8 forward, one backward each from the critics' losses, the actor's and the temperature's"

    def __init__(self, hidden: Sequence[int], warmup_env_steps: int, mlp_critics: bool = False, seed: int = 0) -> None:
        self.name = "rllib_sac_mlp" if mlp_critics else "rllib_sac"
        register_env(ENV_NAME, lambda _: make_env(seed))
        self._algo = stock_config(hidden, warmup_env_steps, mlp_critics, seed).build_algo()
        self._env_steps = 0
        self._updates = 0
        while not self._updates:
            self._train()
        self.gflop_per_update = self._measure_gflop()

    def run(self, seconds: float) -> Window:
        """Train for at least `seconds`."""
        return train_for(seconds, self._train, lambda: (self._env_steps, self._updates))

    def close(self) -> None:
        """Stop the algorithm."""
        self._algo.stop()

    def _train(self) -> None:
        result = self._algo.train()
        self._env_steps = int(result[ENV_RUNNER_RESULTS][NUM_ENV_STEPS_SAMPLED_LIFETIME])
        learner = result.get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {})
        self._updates = int(learner.get(MODULE_STEPS, 0)) // BATCH_SIZE

    def _measure_gflop(self) -> float:
        """Operations of one update's matrix products, counted by PyTorch: the critic is no MLP to count by hand."""
        episodes = self._algo.local_replay_buffer.sample(
            num_items=BATCH_SIZE, n_step=1, gamma=0.99, sample_episodes=True
        )
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: self._env_steps}
        with FlopCounterMode(display=False) as counter:
            self._algo.learner_group.update(episodes=episodes, timesteps=timesteps)
        return counter.get_total_flops() / 1e9
