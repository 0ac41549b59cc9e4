"""D, the current task's ring buffer, and D_pre, the persistent store of earlier tasks (Lan et al. 2025, Eq. 7).

Arrays of columns, never episodes: a batch is one gather (`stores.py`). D_pre has no link to D: its rows are copies.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rllib_nbsp.replay.stacks import with_observations
from rllib_nbsp.replay.stores import Columns, FrameRows, Rows, RowSpec
from rllib_nbsp.seeding import numpy_generator
from rllib_nbsp.settings import ReplaySettings
from rllib_nbsp.state.bundle import Series

# What D keeps beside a batch's columns: whose a row is, and which episode's, so that successful ones can be told apart.
LABELS: dict[str, np.dtype] = {"episode": np.dtype(np.int64), "task": np.dtype(np.int16)}
SEGMENT_ROWS = 500


@dataclass(frozen=True)
class ReplayRequest:
    """How updates use D_pre.

    Attributes:
        interval: every `interval`-th update takes from D_pre (Eq. 7); None never does.
        prior_rows_per_update: rows of D_pre beside every batch, in `Batch.prior`.
    """

    interval: int | None = None
    prior_rows_per_update: int = 0

    @property
    def needs_store(self) -> bool:
        """Whether D_pre is used at all."""
        return self.interval is not None or self.prior_rows_per_update > 0


def row_nbytes(spec: RowSpec) -> int:
    """Bytes of one transition in D."""
    return spec.nbytes + sum(label.itemsize for label in LABELS.values())


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
        self._rows = spec.ring(settings.capacity)
        self._episode = np.empty(settings.capacity, LABELS["episode"])
        self._task = np.empty(settings.capacity, LABELS["task"])
        self._successful: set[int] = set()
        # Stacks share frames with their neighbours, so D_pre takes and drops them in stretches of an episode.
        self._segment_rows = max(1, min(SEGMENT_ROWS, settings.prior_capacity // 20)) if spec.is_frame_stack else 1
        self._prior: Rows = spec.rows()
        self._prior_task = np.empty(0, np.int64)
        self._prior_segment = np.empty(0, np.int64)
        self._segments = 0
        self._prior_seen = 0
        self._prior_stored = 0  # how often D_pre changed
        self._rng = numpy_generator(seed, "replay")
        self._prior_rng = numpy_generator(seed, "prior_replay")

    def __len__(self) -> int:
        """Transitions in D."""
        return self._rows.size

    @property
    def prior_size(self) -> int:
        """Transitions in D_pre."""
        return len(self._prior)

    @property
    def prior(self) -> Columns:
        """A copy of all of D_pre, with the columns of transitions and `task`."""
        out = self._prior.batch(self.prior_size)
        self._prior.gather(np.arange(self.prior_size), out, slice(None))
        return with_observations({**out, "task": self._prior_task.copy()})

    @property
    def nbytes(self) -> tuple[int, int]:
        """Bytes of D, once it is full, and of D_pre."""
        labels = self._episode.nbytes + self._task.nbytes
        return self._rows.nbytes + labels, self._prior.nbytes + self._prior_task.nbytes + self._prior_segment.nbytes

    def add(self, columns: Columns, task: int, successful_episodes: list[int] | None = None) -> int:
        """Append a task's transitions to D; the oldest leave when it is full. Returns how many were added."""
        places = self._rows.add(columns)
        self._episode[places] = columns["episode"]
        self._task[places] = task
        self._successful.update(successful_episodes or ())
        return len(places)

    def clear(self) -> None:
        """Empty D; D_pre stays."""
        self._rows.clear()
        self._successful.clear()

    # State

    def get_state(self) -> dict[str, Any]:
        """All but the rows, which `series` gives."""
        return {
            "current": self._rows.get_state(),
            "successful": sorted(self._successful),
            "segments": self._segments,
            "prior_seen": self._prior_seen,
            "prior_stored": self._prior_stored,
            "rng": self._rng.bit_generator.state,
            "prior_rng": self._prior_rng.bit_generator.state,
        }

    def series(self) -> list[Series]:
        """The rows of D and D_pre, and their frames where rows share them."""
        rows, prior, changed = self._rows, self._prior, self._prior_stored

        def current(first: int, end: int) -> Columns:
            places = np.arange(first, end) % rows.capacity
            return {**rows.kept(places), "episode": self._episode[places], "task": self._task[places]}

        def earlier(first: int, end: int) -> Columns:
            places = np.arange(first, end)
            labels = {"task": self._prior_task[places], "segment": self._prior_segment[places]}
            return {**prior.kept(places), **labels}

        series = [Series("current", rows.cleared, rows.added - rows.size, rows.added, current)]
        series.append(Series("prior", changed, 0, len(prior), earlier))
        for name, generation, store in (("current", rows.cleared, rows), ("prior", changed, prior)):
            if isinstance(store, FrameRows):
                first, end = store.numbers.start, store.numbers.stop
                series.append(Series(f"{name}_frames", generation, first, end, functools.partial(_frames_of, store)))
        return series

    def set_state(self, state: Mapping[str, Any], series: Mapping[str, Columns]) -> None:
        """Take back what `get_state` and, joined, `series` gave."""
        current, prior = series["current"], series["prior"]
        self._rows.set_state(state["current"], current, series.get("current_frames", {}).get("frames"))
        if current:
            places = self._rows.places(np.arange(len(self)))
            self._episode[places], self._task[places] = current["episode"], current["task"]
        if prior:
            self._prior.put_back(prior, series.get("prior_frames", {}).get("frames"))
            self._prior_task, self._prior_segment = prior["task"], prior["segment"]
        self._successful = set(state["successful"])
        self._segments, self._prior_seen = state["segments"], state["prior_seen"]
        self._prior_stored = state["prior_stored"]
        self._rng.bit_generator.state = state["rng"]
        self._prior_rng.bit_generator.state = state["prior_rng"]

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
            tell where a row comes from, and stacks of frames are `stacks.PAIRS`. Rows beside a batch
            (`prior_rows_per_update`) stand at its shard's end.

        Raises:
            ValueError: if the store to sample from is empty.
        """
        beside = self.request.prior_rows_per_update if len(self._prior_index(task)) else 0
        total = self.batch_size + beside
        out = {**self._rows.batch(len(updates) * total), "task": np.empty(len(updates) * total, np.int64)}
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
        """Rows of D_pre in an update that takes any: all, or a share with the same total (docs/readings.md R24)."""
        if only is None and self.settings.mode == "mix" and self.request.interval is not None:
            return self.batch_size // self.request.interval
        return self.batch_size

    def _places(self, update: int, updates: int, per_rank: int, rows: range) -> np.ndarray:
        """Where an update's rows stand in a call's columns: `rows` of its stretch in every rank's part."""
        starts = (np.arange(self.num_shards) * updates + update) * per_rank
        return (starts[:, None] + np.asarray(rows)).ravel()

    def _write(self, out: Columns, place: np.ndarray, store: str, index: np.ndarray) -> None:
        source: Rows = self._rows if store == "current" else self._prior
        # A run of places is a slice, so that the gather writes straight into the batch.
        target: slice | np.ndarray = slice(place[0], place[-1] + 1) if place[-1] - place[0] == len(place) - 1 else place
        source.gather(index, out, target)
        out["task"][target] = (self._task if store == "current" else self._prior_task)[index]
        out["from_prior"][target] = store == "prior"

    def _draw_current(self, rows: int) -> np.ndarray:
        if not len(self):
            raise ValueError("cannot sample from D: it holds no transition yet")
        return self._rows.places(self._rng.integers(len(self), size=rows))

    def _draw_prior(self, rows: int, task: int) -> np.ndarray:
        allowed = self._prior_index(task)
        if not len(allowed):
            raise ValueError("cannot sample from D_pre: it holds no transition of an earlier task")
        draw = self._prior_rng.integers(len(allowed), size=rows)
        return draw if isinstance(allowed, range) else allowed[draw]

    def _prior_index(self, task: int) -> range | np.ndarray:
        if not self.settings.exclude_current:
            return range(self.prior_size)
        return np.flatnonzero(self._prior_task != task)

    # The boundary

    def current_rows(self, task: int, count: int, rng: np.random.Generator) -> Columns:
        """A uniform sample of a task's rows in D without replacement, with the columns of transitions, as copies.

        Args:
            task: index of the task; D holds others too where it is not cleared at boundaries.
            count: rows at most.
            rng: chooses them.
        """
        own = self._places_of(task)
        index = own[rng.choice(len(own), size=min(count, len(own)), replace=False)] if len(own) else own
        rows = self._rows.batch(len(index))
        self._rows.gather(index, rows, slice(None))
        rows = {**rows, "task": self._task[index].astype(np.int64), "from_prior": np.zeros(len(index), bool)}
        return with_observations(rows)

    def newest(self, count: int) -> dict[str, np.ndarray]:
        """Columns "obs" and "actions" of the rows added last, at most `count`, newest last."""
        index = self._rows.places(np.arange(max(0, len(self) - count), len(self)))
        rows = self._rows.batch(len(index))
        self._rows.gather(index, rows, slice(None))
        return {name: with_observations(rows)[name] for name in ("obs", "actions")}

    def store_prior(self, task: int) -> None:
        """Copy a part of D into D_pre as the finished task's share (Algorithm 2, line 21).

        With `split: equal`, every distinct task seen has `prior_capacity / tasks` rows; shares shrink uniformly at
        random, and a revisit replaces its task's share (docs/readings.md R23). Of stacks of frames, shares are made of
        whole segments of up to `SEGMENT_ROWS` rows.
        """
        if not self.request.needs_store or not self.settings.prior_capacity or not len(self):
            return
        old = np.flatnonzero(self._prior_task != task)
        kept: np.ndarray
        if self.settings.split == "reservoir":
            kept, share = self._reservoir_shares()
        elif self.settings.split == "per_task":
            kept, share = old, self.settings.prior_capacity
        else:
            earlier = np.unique(self._prior_task[old])
            share = self.settings.prior_capacity // (len(earlier) + 1)
            shares = [self._shrink(np.flatnonzero(self._prior_task == t), share) for t in earlier]
            kept = np.concatenate([*shares, old[:0]])
        new, segment = self._pick(share, task)
        self._prior_seen += len(self)
        if not len(new):
            return  # no successful episode to file, or none drawn for the reservoir: what the store has stays
        self._prior = self._prior.take(kept).join(self._rows.take(new))
        self._prior_task = np.concatenate([self._prior_task[kept], np.full(len(new), task, np.int64)])
        self._prior_segment = np.concatenate([self._prior_segment[kept], self._segments + segment])
        self._segments += len(new)
        self._prior_stored += 1

    def _shrink(self, index: np.ndarray, size: int) -> np.ndarray:
        """At most `size` of these rows of D_pre, in whole segments."""
        if len(index) <= size:
            return index
        return index[self._choose(self._prior_segment[index], size)]

    def _choose(self, segment: np.ndarray, size: int) -> np.ndarray:
        """Rows of randomly chosen whole segments, at most `size`; `segment` names each row's."""
        if self._segment_rows == 1:
            return self._prior_rng.choice(len(segment), size=min(size, len(segment)), replace=False)
        names, rows = np.unique(segment, return_counts=True)
        order = self._prior_rng.permutation(len(names))
        chosen = names[order[np.cumsum(rows[order]) <= size]]
        return np.flatnonzero(np.isin(segment, chosen))

    def _reservoir_shares(self) -> tuple[np.ndarray, int]:
        """Rows of D_pre to keep, and how many of D to take, for a uniform sample of everything ever seen."""
        total = min(self.settings.prior_capacity, self._prior_seen + len(self))
        if self._prior_seen:
            share = int(self._prior_rng.hypergeometric(len(self), self._prior_seen, total))
        else:
            share = total
        return self._shrink(np.arange(self.prior_size), total - share), share

    def _places_of(self, task: int) -> np.ndarray:
        """Places of a task's rows in D, oldest first."""
        places = self._rows.places(np.arange(len(self)))
        return places[self._task[places] == task]

    def _pick(self, share: int, task: int) -> tuple[np.ndarray, np.ndarray]:
        """Places in D that go to D_pre and their segments: of the finished task, should D hold others too."""
        places = self._places_of(task)[::-1]  # newest first
        if self.settings.pick == "last":
            places = places[:share]
        elif self.settings.pick == "success":
            places = places[np.isin(self._episode[places], np.fromiter(self._successful, np.int64))]
        if self._segment_rows > 1:
            # Episode by episode, oldest first: a segment's rows share their frames.
            places = places[::-1]
            places = places[np.argsort(self._episode[places], kind="stable")]
        segment = np.arange(len(places)) // self._segment_rows
        if self.settings.pick != "last":
            chosen = self._choose(segment, share)
            places, segment = places[chosen], segment[chosen]
        return places, segment


def _frames_of(store: FrameRows, first: int, end: int) -> Columns:
    return {"frames": store.frames[np.arange(first, end) % len(store.frames)]}
