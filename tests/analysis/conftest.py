"""A builder of small result folders, written by hand in the layout that training writes, and their tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from analysis import figures, load_results, tables
from analysis.text import summary_text

PAIR = ["window-open-v3", "window-close-v3"]

# Success [visit, task] of a run of two cycles over two tasks, whose metrics are easy to do by hand:
# ASR = (1 + (0.5 + 1) / 2 + (1 + 0.5) / 2 + (0 + 1) / 2) / 4 = 0.75
# FM = ((1 - 0.5) + (1 - 0.5) + (1 - 0)) / 3 = 2 / 3, FWT = 1
FORGETFUL = [[1.0, 0.0], [0.5, 1.0], [1.0, 0.5], [0.0, 1.0]]
PERFECT = [[1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
ROWS = 24  # Of one run: 4 visits x 3 evaluations x 2 tasks.

COST = {
    "trainable_parameters": 100,
    "network_bytes": 2_000,
    "method_bytes": 0,
    "prior_bytes": 0,
    "scoring_env_steps": 0,
    "auxiliary_env_steps": 0,
    "auxiliary_updates": 0,
}


def measured(visit: int, part: float, seed: int) -> dict[str, float | None]:
    """What a measured training row says of two hidden layers of actor and critics; of later visits and seeds more."""
    since = None if part < 0.5 else visit + seed
    row: dict[str, float | None] = {}
    for number, network in enumerate(("policy", "qf", "qf_twin")):
        for layer in range(2):
            row |= {f"dead_frac_{network}_{layer}": 0.0, f"active_frac_{network}_{layer}": 0.5}
            row |= {
                f"dormant_frac_{network}_{layer}": 0.1 * (number + layer),
                f"grad_dormant_frac_{network}_{layer}": 0.2,
            }
        row |= {f"{name}_{network}": 1.0 + number for name in ("stable_rank", "effective_rank", "srank")}
        row |= {f"{name}_{network}": 2.0 for name in ("feature_norm", "weight_norm", "grad_norm")}
        row[f"weight_diff_{network}"] = part * (visit + seed)
        row[f"effective_lr_{network}"] = since and 1e-4 * since
        for churn in ("churn", "churn_representation", "churn_head"):
            row[f"{churn}_{network}"] = since and 0.01 * since
    return row


class StudyBuilder:
    """Writes trial folders under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(
        self,
        success: Sequence[Sequence[float | None]] = FORGETFUL,
        *,
        sequence: str = "pair",
        arm: str = "sac",
        seed: int = 0,
        tasks: Sequence[str] = PAIR,
        cycles: int = 2,
        method: str | None = None,
        visit_env_steps: int = 1000,
        visits: int | None = None,
        config: dict[str, Any] | None = None,
        config_hash: str = "c0ffee",
        neurons: bool = False,
        training: bool = True,
        mechanism: bool = False,
    ) -> Path:
        """One trial: boundary rows from `success[visit][task]`, two periodic evaluations a visit, training rows.

        Args:
            visits: how many visits are done; None: all of them.
            config: settings over those that config.yaml gets anyway.
            mechanism: whether the first and the last training row of a visit are measured.
        """
        folder = self.root / sequence / arm / f"seed_{seed}"
        folder.mkdir(parents=True)
        method = method or arm
        common = {"sequence": sequence, "arm": arm, "seed": seed}
        rows, intervals = [], []
        done = len(success) if visits is None else visits
        for visit in range(1, done + 1):
            trained = tasks[(visit - 1) % len(tasks)]
            before = success[visit - 2] if visit > 1 else [0.0] * len(tasks)
            for part, phase in ((0.25, "periodic"), (0.75, "periodic"), (1.0, "boundary")):
                env_steps = int(visit_env_steps * (visit - 1 + part))
                for column, task in enumerate(tasks):
                    now, then = success[visit - 1][column], before[column]
                    rate = now if phase == "boundary" or now is None or then is None else then + part * (now - then)
                    rows.append(
                        {
                            "experiment": "by hand",
                            "suite": "metaworld",
                            **common,
                            "method": method,
                            "config_hash": config_hash,
                            "visit": visit,
                            "phase": phase,
                            "trained_task": trained,
                            "eval_task": task,
                            "env_steps": env_steps,
                            "updates": env_steps // 2,
                            "episodes": 20 if phase == "boundary" else 5,
                            "success_rate": rate,
                            "mean_return": None if rate is None else 1000.0 * rate,
                            "per_episode": [{"return": 1.0, "length": 500, "success": bool(rate)}],
                            "policy": "deterministic",
                            "wall_s": 0.5,
                        }
                    )
                intervals.append(
                    {
                        **common,
                        "visit": visit,
                        "task": trained,
                        "phase": "train",
                        "env_steps": env_steps,
                        "visit_env_steps": env_steps - visit_env_steps * (visit - 1),
                        "updates": env_steps // 2,
                        "success_window": None if part == 0.25 else part,
                        "mean_return": None,
                        "policy_loss": -1.0,
                        "alpha": 0.1,
                        "masked_frac": 0.2,
                        "wall_s": env_steps / 100,
                        "rank": 7,
                        **(measured(visit, part, seed) if mechanism and part != 0.75 else {}),
                    }
                )
            if neurons:
                self.neurons(folder, visit, trained, int(visit_env_steps * visit), seed)
        self.write_rows(folder / "evaluations.jsonl", rows)
        if training:
            self.write_rows(folder / "training.jsonl", intervals)
        settings = {"tasks": list(tasks), "cycles": cycles, "arm": arm, "method": method, "seed": seed}
        settings |= {"visit": {"max_env_steps": 1_000_000}, "model": {"hidden": [768, 768, 768]}}
        settings |= {"method_settings": {}, "replay": {"prior_capacity": 100_000}}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings | (config or {})))
        (folder / "versions.json").write_text(json.dumps({"ray": "2.60.0", "torch": "2.13.0"}))
        return folder

    def study(self, arms: Sequence[str], seeds: Sequence[int], sequences: dict[str, list[str]] | None = None) -> None:
        """What the study expects."""
        content = {"sequences": sequences or {"pair": PAIR}, "arms": list(arms), "seeds": list(seeds)}
        (self.root / "study.yaml").write_text(yaml.safe_dump(content))

    @staticmethod
    def neurons(folder: Path, visit: int, task: str, env_steps: int, seed: int = 0) -> Path:
        """Scores of five neurons in three layers of three networks; neuron 0 never moves, 4 is the best and masked."""
        arrays: dict[str, Any] = {"label_rate": 0.6, "env_steps": env_steps, "task": np.array(task)}
        counts = np.array([[0, 0, 60, 40], [30, 20, 30, 20], [40, 20, 20, 20], [50, 15, 10, 25], [58, 2, 2, 38]])
        accuracy = (counts[:, 0] + counts[:, 3]) / 100
        score = np.maximum(accuracy, 1 - accuracy)
        for network in ("policy", "qf", "qf_twin"):
            for layer in range(3):
                quantities = {
                    "score": np.clip(score + 0.001 * seed, 0.5, 1.0),
                    "accuracy": accuracy,
                    "chance_accuracy": np.array([0.4, 0.5, 0.52, 0.53, 0.52]),
                    "p_value": np.array([1.0, 0.9, 0.3, 0.02, 0.001]),
                    "counts": counts,
                    "mean_activation": np.array([0.0, 0.1, 0.2, 0.3, 0.4]),
                    "hist_success": np.ones((5, 20)),
                    "hist_failure": np.ones((5, 20)),
                    "hist_edges": np.tile(np.linspace(0, 1, 21), (5, 1)),
                    "mask": np.array([1.0, 1.0, 1.0, 1.0, 0.2 * (1 - 0.96)]),
                }
                arrays |= {f"{network}/{layer}/{name}": array for name, array in quantities.items()}
        path = folder / "neurons" / f"visit_{visit:02d}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **arrays)
        return path

    @staticmethod
    def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
        """JSON lines, each ended."""
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    @staticmethod
    def read_rows(path: Path) -> list[dict[str, Any]]:
        """The rows back, to be changed and written again."""
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def study(tmp_path: Path) -> StudyBuilder:
    """An empty study's folder."""
    (tmp_path / "study").mkdir()
    return StudyBuilder(tmp_path / "study")


def table_of(study, protocol="nbsp-visits"):
    """The results, the metrics of every seed, and the means of each arm."""
    results = load_results(study.root)
    values = tables.metric_values(results, protocol)
    return results, values, tables.metric_table(results, values).set_index(["sequence", "arm"])


def text_of(study):
    """The summary, by arm."""
    results, values, _ = table_of(study)
    return summary_text(tables.metric_table(results, values)).set_index("Arm")


def with_cost(study, arm, seed=0, *, speeds, **cost):
    """A run of four visits whose reporting intervals had these speeds, one after the other and again."""
    folder = study.run(arm=arm, seed=seed)
    rows = study.read_rows(folder / "training.jsonl")
    for k, row in enumerate(rows):
        row["updates_per_s"] = speeds[k % len(speeds)]
    study.write_rows(folder / "training.jsonl", rows)
    if cost:
        (folder / "cost.json").write_text(json.dumps(COST | cost))


@pytest.fixture
def pages_alone(monkeypatch):
    """Leaves the figures' files for papers empty, which takes half of a report's time."""
    drawn = figures.saved
    monkeypatch.setattr(figures, "saved", lambda fig, kind, **k: drawn(fig, kind, **k) if k or kind == "png" else b"")
