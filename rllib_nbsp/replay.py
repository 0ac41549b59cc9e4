"""D, the current task's ring buffer, and D_pre, the persistent store of earlier tasks (Lan et al. 2025, Eq. 7).

Arrays of columns, never episodes: a batch is one gather. Observations keep the dtype they come in, so that images stay
uint8. D_pre has RLlib's column names, an int column `task`, and no other link to D: its rows are copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rllib_nbsp.methods.base import ReplayRequest
from rllib_nbsp.seeding import numpy_generator
from rllib_nbsp.settings import ReplaySettings

Columns = dict[str, np.ndarray]

BATCH_COLUMNS = ("obs", "actions", "rewards", "new_obs", "terminateds")
# What D keeps beside a batch's columns: whose a row is, and which episode's, so that successful ones can be told apart.
LABELS: dict[str, np.dtype] = {"episode": np.dtype(np.int64), "task": np.dtype(np.int16)}


@dataclass(frozen=True)
class RowSpec:
    """Shapes and dtypes of one transition's columns."""

    obs_shape: tuple[int, ...]
    obs_dtype: np.dtype
    act_shape: tuple[int, ...]
    act_dtype: np.dtype

    def empty(self, rows: int) -> Columns:
        """Unwritten columns; memory is touched as rows are written."""
        return {
            "obs": np.empty((rows, *self.obs_shape), self.obs_dtype),
            "actions": np.empty((rows, *self.act_shape), self.act_dtype),
            "rewards": np.empty(rows, np.float32),
            "new_obs": np.empty((rows, *self.obs_shape), self.obs_dtype),
            "terminateds": np.empty(rows, bool),
        }

    @property
    def nbytes(self) -> int:
        """Bytes of one transition in D."""
        return sum(column.nbytes for column in self.empty(1).values()) + sum(
            label.itemsize for label in LABELS.values()
        )


class TaskReplayBuffer:
    """The two stores and the rule for which of them an update samples.

    Args:
        settings: the run's `replay` section.
        request: how the method wants updates to use D_pre.
        spec: shapes and dtypes of a transition.
        batch_size: rows of one update over all Learners.
        num_shards: Learners; the rows of a call are ordered [rank][update][row], as RLlib shards them.
        seed: the run's seed; D and D_pre sample from independent streams, so that a run without D_pre draws the same
            batches from D.
    """

    def __init__(
        self,
        settings: ReplaySettings,
        request: ReplayRequest,
        spec: RowSpec,
        *,
        batch_size: int,
        num_shards: int = 1,
        seed: int,
    ) -> None:
        self.settings = settings
        self.request = request
        self.batch_size = batch_size
        self.num_shards = num_shards
        self.spec = spec
        self._rows = spec.empty(settings.capacity)
        self._episode = np.empty(settings.capacity, LABELS["episode"])
        self._task = np.empty(settings.capacity, LABELS["task"])
        self._successful: set[int] = set()
        self._size = 0
        self._next = 0
        self.prior: Columns = {**spec.empty(0), "task": np.empty(0, np.int64)}
        self._prior_seen = 0
        self._rng = numpy_generator(seed, "replay")
        self._prior_rng = numpy_generator(seed, "prior_replay")

    def __len__(self) -> int:
        """Transitions in D."""
        return self._size

    @property
    def prior_size(self) -> int:
        """Transitions in D_pre."""
        return len(self.prior["rewards"])

    def add(self, columns: Columns, task: int, successful_episodes: list[int] | None = None) -> int:
        """Append a task's transitions to D; the oldest leave when it is full. Returns how many were added."""
        count = len(columns["rewards"])
        index = (self._next + np.arange(count)) % self.settings.capacity
        for name in BATCH_COLUMNS:
            self._rows[name][index] = columns[name]
        self._episode[index] = columns["episode"]
        self._task[index] = task
        self._successful.update(successful_episodes or ())
        self._next = (self._next + count) % self.settings.capacity
        self._size = min(self._size + count, self.settings.capacity)
        return count

    def clear(self) -> None:
        """Empty D; D_pre stays."""
        self._size = self._next = 0
        self._successful.clear()

    # Sampling

    def draws_prior(self, update: int, task: int) -> bool:
        """Whether lifetime update number `update` (from 1) takes rows from D_pre: `R(t)` of Eq. 7."""
        interval = self.request.interval
        return (
            interval is not None
            and (self.settings.mode == "mix" or update % interval == 0)
            and len(self._prior_index(task)) > 0
        )

    def sample(self, updates: range, task: int, only: str | None = None) -> Columns:
        """Batches for the lifetime updates in `updates`, one after the other, for one call of the Learner.

        Args:
            updates: lifetime numbers of the updates, from 1.
            task: index of the task being trained, for `exclude_current`.
            only: "current" or "prior" to sample from D or D_pre alone, whatever the interval says.

        Returns:
            Columns with `len(updates) * rows_per_update` rows, ordered [rank][update][row]; `task` and `from_prior`
            tell where a row comes from. Rows beside a batch (`prior_rows_per_update`) stand at its shard's end.

        Raises:
            ValueError: if the store to sample from is empty.
        """
        beside = self.request.prior_rows_per_update if len(self._prior_index(task)) else 0
        total = self.batch_size + beside
        out = {**self.spec.empty(len(updates) * total), "task": np.empty(len(updates) * total, np.int64)}
        out["from_prior"] = np.zeros(len(updates) * total, bool)
        shard = self.batch_size // self.num_shards
        per_rank = total // self.num_shards
        for k, update in enumerate(updates):
            from_prior = only == "prior" or (only is None and self.draws_prior(update, task))
            prior_rows = self._prior_rows(only) if from_prior else 0
            picks = [("prior", self._draw_prior(prior_rows, task))] if prior_rows else []
            if prior_rows < self.batch_size:
                picks.insert(0, ("current", self._draw_current(self.batch_size - prior_rows)))
            place = self._places(k, len(updates), per_rank, range(shard))
            start = 0
            for store, index in picks:
                self._write(out, place[start : start + len(index)], store, index)
                start += len(index)
            if beside:
                index = self._draw_prior(beside, task)
                place = self._places(k, len(updates), per_rank, range(shard, per_rank))
                self._write(out, place, "prior", index)
        return out

    def _prior_rows(self, only: str | None) -> int:
        """Rows of D_pre in an update that takes any: all of them, or a share with the same total (methods.md A4)."""
        if only is None and self.settings.mode == "mix" and self.request.interval is not None:
            return self.batch_size // self.request.interval
        return self.batch_size

    def _places(self, update: int, updates: int, per_rank: int, rows: range) -> np.ndarray:
        """Where an update's rows stand in a call's columns: `rows` of its stretch in every rank's part."""
        starts = (np.arange(self.num_shards) * updates + update) * per_rank
        return (starts[:, None] + np.asarray(rows)).ravel()

    def _write(self, out: Columns, place: np.ndarray, store: str, index: np.ndarray) -> None:
        source = self._rows if store == "current" else self.prior
        # A run of places is a slice, so that the gather writes straight into the batch.
        target: slice | np.ndarray = slice(place[0], place[-1] + 1) if place[-1] - place[0] == len(place) - 1 else place
        for name in BATCH_COLUMNS:
            if isinstance(target, slice):
                np.take(source[name], index, axis=0, out=out[name][target], mode="clip")
            else:
                out[name][target] = source[name][index]
        out["task"][target] = (self._task if store == "current" else self.prior["task"])[index]
        out["from_prior"][target] = store == "prior"

    def _draw_current(self, rows: int) -> np.ndarray:
        if not self._size:
            raise ValueError("cannot sample from D: it holds no transition yet")
        return self._rng.integers(self._size, size=rows)

    def _draw_prior(self, rows: int, task: int) -> np.ndarray:
        allowed = self._prior_index(task)
        if not len(allowed):
            raise ValueError("cannot sample from D_pre: it holds no transition of an earlier task")
        draw = self._prior_rng.integers(len(allowed), size=rows)
        return draw if isinstance(allowed, range) else allowed[draw]

    def _prior_index(self, task: int) -> range | np.ndarray:
        if not self.settings.exclude_current:
            return range(self.prior_size)
        return np.flatnonzero(self.prior["task"] != task)

    # The boundary

    def current_rows(self, count: int, rng: np.random.Generator) -> Columns:
        """A uniform sample of D without replacement, at most `count` rows with a batch's columns, as copies."""
        index = rng.choice(self._size, size=min(count, self._size), replace=False)
        rows = {name: self._rows[name][index] for name in BATCH_COLUMNS}
        return {**rows, "task": self._task[index].astype(np.int64), "from_prior": np.zeros(len(index), bool)}

    def newest_obs(self, count: int) -> np.ndarray:
        """The observations added last, at most `count`, newest last."""
        index = (self._next - 1 - np.arange(min(count, self._size))[::-1]) % self.settings.capacity
        return self._rows["obs"][index]

    def store_prior(self, task: int) -> None:
        """Copy a part of D into D_pre as the finished task's share (Algorithm 2, line 21).

        With `split: equal`, every distinct task seen has `prior_capacity / tasks` rows; shares shrink uniformly at
        random, and a revisit replaces its task's share (methods.md A23).
        """
        if not self.request.needs_store or not self.settings.prior_capacity or not self._size:
            return
        old = np.flatnonzero(self.prior["task"] != task)
        kept: np.ndarray
        if self.settings.split == "reservoir":
            kept, share = self._reservoir_shares()
        elif self.settings.split == "per_task":
            kept, share = old, self.settings.prior_capacity
        else:
            earlier = np.unique(self.prior["task"][old])
            share = self.settings.prior_capacity // (len(earlier) + 1)
            shares = [self._shrink(np.flatnonzero(self.prior["task"] == t), share) for t in earlier]
            kept = np.concatenate([*shares, old[:0]])
        new = self._pick(share, task)
        self._prior_seen += self._size
        if not len(new):
            return  # no successful episode to file, or none drawn for the reservoir: what the store has stays
        columns = {name: np.concatenate([self.prior[name][kept], self._rows[name][new]]) for name in BATCH_COLUMNS}
        columns["task"] = np.concatenate([self.prior["task"][kept], np.full(len(new), task, np.int64)])
        self.prior = columns

    def _shrink(self, index: np.ndarray, size: int) -> np.ndarray:
        return self._prior_rng.choice(index, size=size, replace=False) if len(index) > size else index

    def _reservoir_shares(self) -> tuple[np.ndarray, int]:
        """Rows of D_pre to keep, and how many of D to take, for a uniform sample of everything ever seen."""
        total = min(self.settings.prior_capacity, self._prior_seen + self._size)
        if self._prior_seen:
            share = int(self._prior_rng.hypergeometric(self._size, self._prior_seen, total))
        else:
            share = total
        return self._shrink(np.arange(self.prior_size), total - share), share

    def _pick(self, share: int, task: int) -> np.ndarray:
        """Places in D that go to D_pre: of the finished task's transitions, should D hold others too."""
        newest_first = (self._next - 1 - np.arange(self._size)) % self.settings.capacity
        places = newest_first[self._task[newest_first] == task]
        if self.settings.pick == "last":
            return places[:share]
        if self.settings.pick == "success":
            places = places[np.isin(self._episode[places], np.fromiter(self._successful, np.int64))]
        return self._prior_rng.choice(places, size=min(share, len(places)), replace=False)
