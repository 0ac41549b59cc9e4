"""Writes the tables of `docs/results.md` from the rows in `results/published`: `python -m docs.results [--check]`.

A study asks something of pairs of arms: has the first more of a metric than the second, over the seeds that both have?
What the page answers is the table's last column alone; the words around the tables are written by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from analysis import load_results, metric_table, metric_values, metrics, skill, statistics, success_array
from analysis.measures import measure_values, measures_text
from analysis.protocols import MEASURES
from analysis.schema import Results
from analysis.seeds import HALF_WIDTH
from analysis.tables import THRESHOLD, arm_order, cost_values
from analysis.text import interval_text, number, p_text, signed, time_text
from docs.tables import begin, table, written

PAGE, COMMAND = Path(__file__).parent / "results.md", "python -m docs.results"
PUBLISHED, PRESETS = Path("results/published"), Path("tune_configs")
LEVEL = 0.05
METRICS = {"asr": "ASR ↑", "fm": "FM ↓", "fwt": "FWT ↑", "final_success": "Final ↑"}
ASKED = ("asr", "fm")
"""The metrics of which each pair is asked."""
ANYTIME = "aaa"
"""The measure that is shown beside the metrics: of all evaluations, where the metrics are of visits' ends."""


@dataclass(frozen=True)
class Study:
    """A published study of one sequence, and its questions.

    Attributes:
        name: of its folder.
        preset: the file in `tune_configs` that says which arms and seeds there are to be.
        questions: (arm, control) pairs; none in a study that ranks nothing.
        by_seed: whether success is shown of each seed, or the mean over seeds.
    """

    name: str
    preset: str
    questions: tuple[tuple[str, str], ...] = ()
    by_seed: bool = False


STUDIES = (
    Study(
        "fast_pendulum_pair",
        "fast/pendulum_pair.yaml",
        (
            *((arm, "sac") for arm in ("nbsp", "replay_only", "mask_only", "random", "balanced")),
            *(("nbsp", control) for control in ("replay_only", "mask_only", "random", "balanced")),
            *((arm, "nbsp") for arm in ("ewc", "ancl", "npc", "cotasp", "crelu", "cbp", "plasticity_injection")),
        ),
    ),
    Study(
        "fast_point_mass_pair",
        "fast/point_mass_pair.yaml",
        (
            *((arm, "sac") for arm in ("nbsp", "replay_only", "mask_only", "random", "ewc", "cotasp", "cbp")),
            *(("nbsp", control) for control in ("replay_only", "mask_only", "random")),
        ),
    ),
    Study(
        "fast_point_mass_selection",
        "fast/point_mass_selection.yaml",
        (
            *((arm, "sac") for arm in ("mask_only", "auto", "random", "dormant", "uniform")),
            *(("mask_only", other) for other in ("auto", "no_constant", "balanced", "random", "dormant", "uniform")),
            ("auto", "auto_random"),
        ),
    ),
    Study(
        "fast_point_mass_share",
        "fast/point_mass_share.yaml",
        (
            *((arm, "sac") for arm in ("top_40", "top_60", "top_80", "top_90", "all", "random_80", "random_90")),
            *((f"top_{share}", f"random_{share}") for share in (40, 60, 80, 90)),
        ),
    ),
    Study(
        "cpu_after_mastery",
        "cpu/after_mastery.yaml",
        (
            *((arm, "sac") for arm in ("nbsp", "replay_only", "mask_only", "ewc")),
            *(("nbsp", control) for control in ("replay_only", "mask_only")),
        ),
        by_seed=True,
    ),
    Study(
        "cpu_button_drawer",
        "cpu/button_drawer.yaml",
        (("nbsp", "sac"), ("replay_only", "sac"), ("mask_only", "sac"), ("nbsp", "replay_only"), ("nbsp", "mask_only")),
        by_seed=True,
    ),
    Study("cpu_baselines", "cpu/baselines.yaml", by_seed=True),
)


@dataclass(frozen=True)
class Answer:
    """What a pair of arms comes to in one metric.

    Attributes:
        differences: the arm's value less the control's, one a seed.
        p: of a sign-flip test, before it is adjusted for the other questions.
        estimate: mean of the differences and its interval.
    """

    arm: str
    control: str
    metric: str
    differences: tuple[float, ...]
    estimate: statistics.Interval
    p: float

    def says(self, p: float, questions: int) -> str:
        """The verdict, from the p after Holm over so many questions."""
        if not self.differences:
            return "no seed has both"
        if p < LEVEL:
            return "**more**" if self.estimate.mean > 0 else "**less**"
        return "open" if questions * statistics.smallest_p(len(self.differences)) < LEVEL else "open: too few seeds"

    @property
    def seeds(self) -> str:
        """With how many the interval is expected to have `HALF_WIDTH`."""
        if len(self.differences) < 2:
            return ""
        return str(max(len(self.differences), statistics.seeds_for(HALF_WIDTH, self.differences)))


def answers(study: Study, results: Results, values: pd.DataFrame) -> list[Answer]:
    """Every question in every metric that is asked for."""
    found = []
    for arm, control in study.questions:
        ours, theirs = (values[values["arm"] == name].set_index("seed") for name in (arm, control))
        for metric in ASKED:
            pairs = statistics.paired_differences(ours[metric].to_dict(), theirs[metric].to_dict())
            differences = tuple(pairs.values())
            estimate = statistics.interval(differences, limits=metrics.difference_limits(metric, results.of_returns))
            found.append(Answer(arm, control, metric, differences, estimate, statistics.sign_flip_test(differences)))
    return found


def verdicts(study: Study, results: Results, values: pd.DataFrame) -> str:
    """The questions and what the rows answer, adjusted for all of the study's questions by Holm."""
    found = answers(study, results, values)
    adjusted = statistics.holm([answer.p for answer in found])
    rows = (
        (
            f"`{answer.arm}` over `{answer.control}`",
            METRICS[answer.metric],
            f"{signed(answer.estimate.mean)} [{signed(answer.estimate.low)}, {signed(answer.estimate.high)}]",
            p_text(p),
            str(len(answer.differences)),
            answer.says(p, len(found)),
            answer.seeds,
        )
        for answer, p in zip(found, adjusted, strict=True)
    )
    heads = (
        "arm over control",
        "metric",
        "difference, 95 %",
        "p, Holm",
        "pairs",
        "the arm has",
        f"±{HALF_WIDTH} takes",
    )
    return table(heads, rows)


def summary(results: Results, values: pd.DataFrame) -> str:
    """Each arm's metrics over its seeds, and what it had throughout."""
    rows = metric_table(results, values).to_dict("records")
    heading = MEASURES[ANYTIME].heading
    anytime = measures_text(measure_values(results), results.of_returns).set_index("Arm")[heading]
    cells = (
        (
            f"`{row['arm']}`",
            *(_estimate(row, name) for name in METRICS),
            anytime[row["arm"]],
            f"n={row['n_complete']}",
        )
        for row in rows
        if row["n_complete"]
    )
    return table(("arm", *METRICS.values(), heading, "seeds"), cells)


def _estimate(row: dict[str, float], name: str) -> str:
    return interval_text(row[f"{name}_mean"], row[f"{name}_low"], row[f"{name}_high"])


def visits(study: Study, results: Results) -> str:
    """Success at each task after each visit, of each seed or the mean over seeds."""
    (sequence,) = {run.sequence for run in results.runs}
    rows = []
    seeds: set[int] = set()
    for arm in _arms(results):
        success = success_array(results, sequence, arm)
        seeds |= set(success.seeds)
        for place, task in enumerate(success.order.tasks):
            own = success.values[:, :, place]
            cells = {seed: _line(line) for seed, line in zip(success.seeds, own, strict=True)}
            rows.append((arm, task, cells if study.by_seed else {-1: _line(np.nanmean(own, axis=0))}))
    columns = sorted(seeds) if study.by_seed else [-1]
    heads = ("arm", "task", *(f"seed {seed}" if seed >= 0 else "mean over seeds" for seed in columns))
    return table(heads, ((f"`{arm}`", task, *(cells.get(seed, "") for seed in columns)) for arm, task, cells in rows))


def lasting(results: Results) -> str:
    """How long the first task takes to be mastered for good, and how much of it there is throughout the others' visits.

    In a visit to that task these are the thousands of environment steps to the evaluation from which on none is below
    `THRESHOLD`, to the visit's end; in a visit to another one the mean success of all evaluations in it.
    """
    (order,) = results.orders.values()
    rows = results.evaluations[results.evaluations["eval_task"] == order.tasks[0]].sort_values("env_steps")
    lines = []
    for arm in _arms(results):
        for seed, run in rows[rows["arm"] == arm].groupby("seed"):
            start, cells = 0, []
            for visit, own in run.groupby("visit"):
                success, env_steps = own["score"].to_numpy(), own["env_steps"].to_numpy()
                if order.order[visit - 1] == 0:
                    cells.append(_mastered_from(success, env_steps - start))
                else:
                    cells.append(f"{number(success.mean())} of it")
                start = env_steps[-1]
            lines.append((f"`{arm}`", str(seed), *cells))
    names = (f"visit {visit}: {order.tasks[task]}" for visit, task in enumerate(order.order, 1))
    return table(("arm", "seed", *names), iter(lines))


def _mastered_from(success: np.ndarray, env_steps: np.ndarray) -> str:
    """The thousands of steps to the first evaluation after the last one that is below `THRESHOLD`."""
    (below,) = np.nonzero(success < THRESHOLD)
    after = env_steps[below[-1] + 1 :] if len(below) else env_steps
    return f"from {after[0] // 1000}" if len(after) else "not to its end"


def _arms(results: Results) -> list[str]:
    """Those that ran, in the study's order."""
    return [arm for arm in arm_order(results) if arm in results.methods]


def _line(values: np.ndarray) -> str:
    return " ".join(number(value) for value in values)


def constants(study: Study, results: Results) -> str:
    """Of the neurons braked in a visit, the shares that were constant when they were chosen, and the goal rate then."""
    told = skill.constant_masked(results.training)
    if told.empty:
        return ""  # no arm brakes neurons
    if not study.by_seed:
        told = told.groupby(["sequence", "arm", "visit"], as_index=False).mean()
    heads = ["arm", *(["seed"] if study.by_seed else [])]
    columns = sorted(told["visit"].unique())
    rows = []
    for key, own in told.groupby(heads):
        cells = {
            row["visit"]: f"{_line(row[['policy', 'qf', 'qf_twin']])}; {number(row['label_rate'])}"
            for _, row in own.iterrows()
        }
        rows.append((f"`{key[0]}`", *map(str, key[1:]), *(cells.get(visit, "") for visit in columns)))
    return table((*heads, *(f"visit {visit}" for visit in columns)), iter(rows))


def braked(results: Results) -> str:
    """The share of the hidden neurons that an arm brakes in a visit: the mean over seeds, least and most."""
    last = results.training.groupby(["arm", "seed", "visit"])["masked_frac"].last()
    rows = []
    for arm in _arms(results):
        shares = last[arm].groupby("visit").agg(["mean", "min", "max"])
        if (shares["max"] > 0).any():
            rows.append((f"`{arm}`", *(_range(*row) for row in shares.itertuples(index=False))))
    (order,) = results.orders.values()
    return table(("arm", *(f"visit {visit}" for visit in range(1, 1 + len(order.order)))), iter(rows))


def _range(mean: float, low: float, high: float) -> str:
    return number(mean) + ("" if high - low < 0.005 else f" ({number(low)} to {number(high)})")


def progress(study: Study, results: Results) -> str:
    """How much of what the preset asks for is there, what it took, and what the rest takes at each arm's median."""
    preset = yaml.safe_load((PRESETS / study.preset).read_text(encoding="utf-8"))
    planned = {arm: len(preset["seeds"]) for arm in preset["arms"]}
    total, ran = sum(planned.values()), len(results.runs)
    seconds = cost_values(results).set_index("arm")["wall_s"]
    spent = f"in {time_text(seconds.sum())} by the trials' own clocks"
    if ran >= total:
        return f"All {ran} trials ran, {spent}."
    seeds = [{run.seed for run in results.runs if run.arm == arm} for arm in planned]
    missing = pd.Series(planned) - [len(own) for own in seeds]
    pace = seconds.groupby(level="arm").median().reindex(missing.index)
    rest = time_text((missing * pace.fillna(pace.mean())).sum())
    whole = sorted(set.intersection(*seeds))
    complete = f"all {len(planned)} arms of seed{'s' * (len(whole) != 1)} {', '.join(map(str, whole))}"
    said = complete if whole else "no seed has all arms"
    return f"So far {ran} of {total} trials ran, {spent}; the others take {rest} at that pace; {said}."


def pages() -> dict[str, str]:
    """The tables by the names that the page has for them."""
    tables: dict[str, str] = {}
    for study in STUDIES:
        results = load_results(PUBLISHED / study.name)
        values = metric_values(results)
        tables |= {
            f"{study.name} progress": progress(study, results),
            f"{study.name} summary": summary(results, values),
            f"{study.name} visits": visits(study, results),
            f"{study.name} braked": braked(results),
        }
        if study.by_seed:
            tables[f"{study.name} lasting"] = lasting(results)
        if masked := constants(study, results):
            tables[f"{study.name} constants"] = masked
        if study.questions:
            tables[f"{study.name} verdicts"] = verdicts(study, results, values)
    return tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables, or with `--check` say whether they are up to date; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    page = PAGE.read_text(encoding="utf-8")
    new = written(page, {name: text for name, text in pages().items() if begin(name, COMMAND) in page}, COMMAND)
    if new == page:
        return 0
    if "--check" in arguments:
        print(f"{PAGE}: its tables are not those of the published rows; write them anew with `{COMMAND}`")
        return 1
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
