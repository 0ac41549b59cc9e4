"""Us: `rllib_nbsp` through its public API, and the parts of it that are measured on their own."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from benchmarks.contender import BATCH_SIZE, TASK, Window, train_for
from benchmarks.flops import JOINT_DISCRETE_UPDATE, JOINT_UPDATE, gflop, update_gemms
from benchmarks.plain_atari import (
    ADAM_EPS,
    ATARI_BATCH_SIZE,
    CONV,
    GAME,
    HIDDEN,
    LR,
    TARGET_PERIOD,
    UPDATE_PERIOD,
    atari_gemms,
)
from benchmarks.timing import milliseconds, ratio_interval, repeat_for
from rllib_nbsp import ContinualSAC, ContinualSACConfig, NBSPConfig
from rllib_nbsp.envs.metaworld import ACTION_SPACE, OBSERVATION_SPACE
from rllib_nbsp.learners import rllib_batch
from rllib_nbsp.nn import losses
from rllib_nbsp.replay.buffer import ReplayRequest, TaskReplayBuffer
from rllib_nbsp.replay.stores import RowSpec
from rllib_nbsp.sac.learner import ContinualSACTorchLearner
from rllib_nbsp.settings import ReplaySettings

EARLIER_TASK = "window-close-v3"
SMALL_TASK, SMALL_HIDDEN, SMALL_BATCH_SIZE, SMALL_UPDATES = "Pendulum-v1@return>=-300", (64, 64), 64, 4
"""What the fast studies train, and how many updates a step of their four environments brings."""
OBS_SIZE, ACTION_SIZE = OBSERVATION_SPACE.shape[0], ACTION_SPACE.shape[0]


def base_config(config: ContinualSACConfig, hidden: Sequence[int]) -> ContinualSACConfig:
    """One environment in this process, one update of `BATCH_SIZE` a step, and nothing periodic in the way."""
    return (
        config.networks(hidden=list(hidden))
        .env_runners(num_env_runners=0, num_envs_per_env_runner=1)
        .training(updates_per_env_step=1.0, rollout_fragment_length=1, batch_size=BATCH_SIZE)
        .visit(early_stop=None)
        .evaluation(periodic_episodes=0, boundary_episodes=1, num_envs=1, report_env_steps=report_env_steps(hidden))
        .debugging(seed=0, log_level="ERROR")
    )


def report_env_steps(hidden: Sequence[int]) -> int:
    """Length of an iteration: by default 1000 steps, longer than a window; here 2 s (width 256) to 4 s (768)."""
    return min(100, 25_600 // max(hidden))


def mlp_gflop(hidden: Sequence[int]) -> float:
    """10^9 operations of one of our updates on `TASK`."""
    return gflop(update_gemms(OBS_SIZE, ACTION_SIZE, hidden, BATCH_SIZE, JOINT_UPDATE))


def sac_config(hidden: Sequence[int], warmup_env_steps: int) -> ContinualSACConfig:
    """A visit that no benchmark comes to the end of."""
    return base_config(ContinualSACConfig(), hidden).curriculum(
        suite="metaworld", tasks=[TASK], cycles=1, visit_env_steps=10**9, warmup_env_steps=warmup_env_steps
    )


def bf16_config(hidden: Sequence[int], warmup_env_steps: int) -> ContinualSACConfig:
    """The same, with matrix products in bfloat16."""
    return sac_config(hidden, warmup_env_steps).training(autocast="bf16")


def nbsp_config(hidden: Sequence[int], prior_rows: int) -> ContinualSACConfig:
    """NBSP whose first visit is nothing but the random steps that fill D_pre; scored like any visit, it leaves masks.

    The second visit, at `TASK`, keeps D and needs no warm-up of its own, so that it updates from its first step. Steps
    are labelled by their episode's return: a policy that was never trained has no successes to score by.
    """
    return (
        base_config(NBSPConfig(), hidden)
        .curriculum(
            suite="metaworld",
            tasks=[EARLIER_TASK, TASK],
            cycles=1,
            visit_env_steps=prior_rows + 1,
            warmup_env_steps=prior_rows,
        )
        .training(skill_frac=0.2, replay_interval=10, replay_prior_capacity=prior_rows)
        .training(score_env_steps=2_000, gpm="return")
        .boundary(clear_buffer=False, warmup_each_visit=False)
    )


class Ours:
    """`ContinualSAC` with the method "sac", trained by `algo.train()`."""

    name = "sac"
    passes = str(JOINT_UPDATE)
    config = staticmethod(sac_config)

    def __init__(self, hidden: Sequence[int], warmup_env_steps: int) -> None:
        self.gflop_per_update = mlp_gflop(hidden)
        self._start(self.config(hidden, warmup_env_steps))
        while not self._result["updates"]:
            self._train()

    def run(self, seconds: float) -> Window:
        """Train for at least `seconds`."""
        return train_for(seconds, self._train, lambda: (self._result["env_steps"], self._result["updates"]))

    def close(self) -> None:
        """Stop the algorithm."""
        self._algo.stop()

    def _start(self, config: ContinualSACConfig) -> None:
        self._algo: ContinualSAC = config.build_algo()
        self._train()

    def _train(self) -> None:
        self._result: dict[str, Any] = self._algo.train()


class OursInBF16(Ours):
    """The same in bfloat16."""

    name = "sac_bf16"
    config = staticmethod(bf16_config)


class OursInVisit2(Ours):
    """`NBSP` in its second visit: masks on, D_pre full, every tenth update from it.

    Raises:
        RuntimeError: if that is not what is being timed.
    """

    name = "nbsp"

    def __init__(self, hidden: Sequence[int], prior_rows: int) -> None:
        self._prior_rows = prior_rows
        self._neurons = sum(hidden)
        self.gflop_per_update = mlp_gflop(hidden)
        self._start(nbsp_config(hidden, prior_rows))
        while self._result["visit"] == 1:
            self._train()
        self._train()
        self._check()

    def run(self, seconds: float) -> Window:
        """Train for at least `seconds`."""
        window = super().run(seconds)
        self._check()
        return window

    def _check(self) -> None:
        masked_frac = self._result["learners"][DEFAULT_MODULE_ID]["masked_frac"]
        prior_size = self._algo.replay.prior_size
        if self._result["done"]:
            raise RuntimeError("the second visit is over: measure for less time, or with more rows in D_pre")
        if abs(masked_frac - 0.2) > 1 / self._neurons or prior_size != self._prior_rows:
            raise RuntimeError(
                f"nbsp is not in the state to be measured: masked share {masked_frac:.3f}, not 0.2, or {prior_size} "
                f"rows in D_pre, not {self._prior_rows}"
            )


class OursOnAtari(Ours):
    """`ContinualSAC` with the method "sac" on a game: the paper's networks, an update every fourth step as CleanRL."""

    passes = str(JOINT_DISCRETE_UPDATE)

    def __init__(self, warmup_env_steps: int, capacity: int) -> None:
        self.gflop_per_update = gflop(atari_gemms(JOINT_DISCRETE_UPDATE))
        self._start(
            base_config(ContinualSACConfig(), HIDDEN)
            .networks(conv=[list(layer) for layer in CONV])
            .curriculum(suite="atari", tasks=[GAME], cycles=1, visit_env_steps=10**9, warmup_env_steps=warmup_env_steps)
            .training(updates_per_env_step=1 / UPDATE_PERIOD, batch_size=ATARI_BATCH_SIZE)
            .training(target_update_env_steps=TARGET_PERIOD, tau=1.0)
            .training(actor_lr=LR, critic_lr=LR, alpha_lr=LR, adam_eps=ADAM_EPS)
            .replay(capacity=capacity)
            .evaluation(deterministic=False)
        )
        while not self._result["updates"]:
            self._train()


class BareUpdate:
    """The arithmetic of one of our updates, straight in PyTorch on tensors that are ready.

    It is `ContinualSACTorchLearner`'s update with the method "sac" without what surrounds it: the same forward pass of
    the same module, the same losses, one backward, the same optimizers, the same move of the targets. Left out are
    `LearnerGroup` and `Learner.update`, the conversion of the batch, the hooks, the check for finite losses, and what
    is kept for reports.
    """

    def __init__(self, learner: ContinualSACTorchLearner) -> None:
        agent = learner.agent
        module = learner.module[DEFAULT_MODULE_ID]
        # Behind RLlib's `forward_train`, which walks all submodules to set their training mode.
        self._forward = module._forward_train
        self._log_alpha = agent.log_alpha
        self._parameters = [p for network in agent.networks.values() for p in network.parameters()] + [agent.log_alpha]
        self._optimizers = list(agent.optimizers.values())
        self._targets: list[torch.Tensor] = [p for name in ("qf", "qf_twin") for p in agent.targets[name].parameters()]
        self._critics: list[torch.Tensor] = [p for name in ("qf", "qf_twin") for p in agent.networks[name].parameters()]
        self._target_entropy = -float(agent.act_dim)
        self._gamma, self._tau = learner.run.training.gamma, learner.run.training.tau

    def __call__(self, batch: dict[str, torch.Tensor]) -> None:
        """Update on one batch of tensors by RLlib's column names."""
        out = self._forward(batch)
        alpha = self._log_alpha.detach().exp()
        target = losses.critic_target(
            batch["rewards"], batch["terminateds"], out["next_q"], out["next_logp"], alpha, self._gamma
        )
        loss = losses.actor_loss(out["logp"], out["q_policy"], alpha)
        loss = loss + losses.critic_loss(out["q"], target) + losses.critic_loss(out["q_twin"], target)
        loss = loss + losses.temperature_loss(self._log_alpha, out["logp"], self._target_entropy)
        for parameter in self._parameters:
            parameter.grad = None
        loss.backward()
        for optimizer in self._optimizers:
            optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self._targets, self._critics, self._tau)


def measure_update_over_bare(hidden: Sequence[int], windows: int, seconds: float) -> dict[str, Any]:
    """`learner_group.update` against `BareUpdate`, in turns on one Learner: one update of `BATCH_SIZE` a call, as the
    algorithm makes after an environment step.

    The first includes wrapping the columns for RLlib; neither includes drawing them from the replay.

    Returns:
        `full_ms` and `bare_ms` an update (medians), their `ratio` and its `interval`, and the `windows` of both in ms.
    """
    algo = sac_config(hidden, BATCH_SIZE).build_algo()
    while len(algo.replay) < 2 * BATCH_SIZE:
        algo.train()
    columns = algo.replay.sample(range(1, 2), 0)
    tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
    learner = next(iter(algo.learner_group.foreach_learner(lambda learner: learner))).get()
    bare = BareUpdate(learner)

    def full() -> None:
        algo.learner_group.update(batch=rllib_batch(columns), minibatch_size=BATCH_SIZE)

    times: dict[str, list[float]] = {"full": [], "bare": []}
    for _ in range(windows):
        times["full"].append(milliseconds(full, seconds))
        times["bare"].append(milliseconds(lambda: bare(tensors), seconds))
    algo.stop()
    full_ms, bare_ms = statistics.median(times["full"]), statistics.median(times["bare"])
    interval = ratio_interval([times["full"]], [times["bare"]])
    return {
        "full_ms": full_ms,
        "bare_ms": bare_ms,
        "ratio": full_ms / bare_ms,
        "interval": interval,
        "windows": times,
    }


def measure_small_update(windows: int, seconds: float) -> dict[str, Any]:
    """An update of the fast studies (`tune_configs/fast/`): two layers of 64, batches of 64, four updates a call.

    Replayed, and beside it, in turns on one Learner, step by step as where nothing can be replayed. It includes
    wrapping the columns for RLlib and not drawing them from the replay.

    Returns:
        `replayed_ms` and `stepwise_ms` an update (medians), their `ratio` and its `interval`, and the `windows` of both
        in ms.
    """
    config = base_config(ContinualSACConfig(), SMALL_HIDDEN).training(batch_size=SMALL_BATCH_SIZE)
    algo = config.curriculum(
        suite="gymnasium", tasks=[SMALL_TASK], cycles=1, visit_env_steps=10**9, warmup_env_steps=SMALL_BATCH_SIZE
    ).build_algo()
    while len(algo.replay) < 2 * SMALL_BATCH_SIZE:
        algo.train()
    columns = algo.replay.sample(range(1, 1 + SMALL_UPDATES), 0)
    learner = next(iter(algo.learner_group.foreach_learner(lambda learner: learner))).get()
    makers = {"replayed": learner.graphs, "stepwise": None}

    def update() -> None:
        algo.learner_group.update(batch=rllib_batch(columns), minibatch_size=SMALL_BATCH_SIZE)

    times: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(windows):
        for name, learner.graphs in makers.items():
            for _ in range(2):  # a recording is made anew where somebody else wrote to the weights
                update()
            times[name].append(milliseconds(update, seconds) / SMALL_UPDATES)
    algo.stop()
    medians = {f"{name}_ms": statistics.median(window) for name, window in times.items()}
    interval = ratio_interval([times["replayed"]], [times["stepwise"]])
    ratio = medians["replayed_ms"] / medians["stepwise_ms"]
    return {**medians, "ratio": ratio, "interval": interval, "windows": times}


def measure_replay(rows: int, calls: int = 500) -> dict[str, Any]:
    """Time of a batch from a full D, and the memory that D has taken.

    Returns:
        `rows`; `sample_ms`, the median over `calls`; `bytes`, of everything that the buffer allocates.
    """
    float32 = np.dtype(np.float32)
    spec = RowSpec(OBSERVATION_SPACE.shape, float32, ACTION_SPACE.shape, float32)
    tracemalloc.start()
    replay = TaskReplayBuffer(
        ReplaySettings(capacity=rows), ReplayRequest(), spec, batch_size=BATCH_SIZE, num_shards=1, seed=0
    )
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    rng = np.random.default_rng(0)
    chunk = min(rows, 10_000)
    columns = {
        "obs": rng.random((chunk, OBS_SIZE), np.float32),
        "actions": rng.random((chunk, ACTION_SIZE), np.float32),
        "rewards": rng.random(chunk, np.float32),
        "new_obs": rng.random((chunk, OBS_SIZE), np.float32),
        "terminateds": np.zeros(chunk, bool),
        "episode": np.zeros(chunk, np.int64),
    }
    while len(replay) < rows:
        replay.add(columns, 0)
    times = []
    for update in range(1, calls + 1):
        start = time.perf_counter()
        replay.sample(range(update, update + 1), 0)
        times.append(1e3 * (time.perf_counter() - start))
    return {"rows": rows, "sample_ms": statistics.median(times), "bytes": size}


def measure_frame_replay(rows: int, prior_rows: int, calls: int = 300) -> dict[str, Any]:
    """Time of a batch of stacks from a full D, and the memory of D and D_pre, on frames of a real game's shape.

    Returns:
        `rows` and `prior_rows` that are there; `sample_ms`, the median over `calls` of a batch of D; `bytes` and
        `prior_bytes`.
    """
    spec = RowSpec((4, 84, 84), np.dtype(np.uint8), (), np.dtype(np.int64))
    settings = ReplaySettings(capacity=rows, prior_capacity=prior_rows)
    replay = TaskReplayBuffer(settings, ReplayRequest(10), spec, batch_size=ATARI_BATCH_SIZE, num_shards=1, seed=0)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (1_000, 84, 84), np.uint8)
    stacks = np.lib.stride_tricks.sliding_window_view(frames, 4, axis=0).transpose(0, 3, 1, 2)
    count = len(stacks) - 1
    columns = {
        "obs": stacks[:-1],
        "actions": rng.integers(6, size=count),
        "rewards": rng.random(count, np.float32),
        "new_obs": stacks[1:],
        "terminateds": np.zeros(count, bool),
    }
    episode = 0
    while len(replay) < rows:
        replay.add({**columns, "episode": np.full(count, episode)}, 0)
        episode += 1
    times = []
    for update in range(1, calls + 1):
        start = time.perf_counter()
        replay.sample(range(update, update + 1), 0, "current")
        times.append(1e3 * (time.perf_counter() - start))
    replay.store_prior(0)
    stored, prior_stored = replay.nbytes
    return {
        "rows": len(replay),
        "prior_rows": replay.prior_size,
        "sample_ms": statistics.median(times),
        "bytes": stored,
        "prior_bytes": prior_stored,
    }


def measure_overlap(hidden: Sequence[int], warmup_env_steps: int, windows: int, seconds: float) -> dict[str, Any]:
    """One remote EnvRunner whose sampling overlaps the updates, against the two done one after the other.

    The parts are what a loop without overlap would do for an environment step: hand over the weights and wait for a
    fragment; draw a batch and update on it. All three are timed in turns on one algorithm.

    Returns:
        ms per environment step, medians: `sampling_ms`, `updates_ms`, `sum_of_parts_ms` and `overlapped_ms`; and the
        `windows` of each.
    """
    algo = sac_config(hidden, warmup_env_steps).env_runners(num_env_runners=1).build_algo()
    result = algo.train()
    while not result["updates"]:
        result = algo.train()

    def overlapped() -> float:
        before = result["env_steps"]
        _, elapsed = repeat_for(seconds, train)
        return 1e3 * elapsed / (result["env_steps"] - before)

    def train() -> None:
        nonlocal result
        result = algo.train()

    def update() -> None:
        algo.learners.update(algo.replay.sample(range(1, 2), 0), 1)

    def sample() -> None:
        algo.learners.weights_changed()
        algo.workers.ask("sample", {1: {"task": TASK, "version": 0, "num_vector_steps": 1}})

    times: dict[str, list[float]] = {"sampling_ms": [], "updates_ms": [], "overlapped_ms": []}
    for _ in range(windows):
        times["sampling_ms"].append(milliseconds(sample, seconds))
        times["updates_ms"].append(milliseconds(update, seconds))
        times["overlapped_ms"].append(overlapped())
    algo.stop()
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {**medians, "sum_of_parts_ms": medians["sampling_ms"] + medians["updates_ms"], "windows": times}
