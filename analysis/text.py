"""Tables -> text: what the summary and the other tables of a report show, and numbers as people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from rllib_nbsp.reading import printable

from .tables import SUMMARY, cost_over_baseline

NO_ROWS = "The paper has no numbers for these sequences, cycles and arms."

NO_VALUE = "–"  # noqa: RUF001, a dash reads better in a table than a hyphen

RECONSTRUCTIONS = {"npc": "NPC (reconstruction)"}
"""Registered methods that are rebuilt without their source's equations -> what summary and comparison call them."""


# Tables


def headings(of_returns: bool) -> dict[str, str]:
    """The columns of the summary; of returns, the paper calls ASR AR (Eq. 12)."""
    return {**SUMMARY, "asr": "AR ↑"} if of_returns else SUMMARY


def summary_text(table: pd.DataFrame, of_returns: bool = False) -> pd.DataFrame:
    """The metric table as text: a mean alone for one seed, never an interval of one."""
    rows = []
    for row in table.to_dict("records"):
        seeds, expected = row["n_complete"], row["n_expected"]
        cells = {"Sequence": row["sequence"], "Arm": arm_text(row["arm"], row["method"])}
        for name, heading in headings(of_returns).items():
            # Undefined (relearn with one cycle, say) is not the same as not measured yet.
            cells[heading] = estimate_text(row, name, NO_VALUE if seeds else "incomplete")
            if row[f"{name}_n"] not in (0, seeds):
                cells[heading] += f" (n={row[f'{name}_n']})"
        cells["Seeds"] = f"n={seeds}" if seeds == expected else f"n={seeds}/{expected}"
        rows.append(cells)
    return pd.DataFrame(rows)


def arm_text(arm: str, method: str | None) -> str:
    """An arm's name, and that its method is a reconstruction if it is."""
    return f"{arm}: {RECONSTRUCTIONS[method]}" if method in RECONSTRUCTIONS else arm


def estimate_text(row: Mapping[str, Any], name: str, empty: str = NO_VALUE) -> str:
    """A mean with its interval, or `empty` where there is none."""
    mean = row[f"{name}_mean"]
    return interval_text(mean, row[f"{name}_low"], row[f"{name}_high"]) if np.isfinite(mean) else empty


def interval_text(mean: float, low: float, high: float) -> str:
    """`0.63 ± 0.12` where the mean is in the middle, else `0.93 [0.74, 1.00]`; the mean alone without an interval."""
    if not np.isfinite(low):
        return number(mean)
    if np.isclose(high - mean, mean - low):
        return f"{number(mean)} ± {(high - low) / 2:.2f}"
    return f"{number(mean)} [{number(low)}, {number(high)}]"


def difference_text(differences: pd.DataFrame, of_returns: bool = False) -> pd.DataFrame:
    """The difference table as text: the mean with its interval and Holm's p; a dash where no seed has both."""
    rows = []
    for row in differences.to_dict("records"):
        cells = {"Sequence": row["sequence"], "Arm": arm_text(row["arm"], row["method"])}
        for name, heading in headings(of_returns).items():
            cells[heading] = difference_cell(*(row[f"{name}_difference{part}"] for part in ("", "_low", "_high")))
            if row[f"{name}_difference_n"] not in (0, row["asr_difference_n"]):
                cells[heading] += f" (n={row[f'{name}_difference_n']})"
            cells[f"p, {heading.split()[0]}"] = p_text(row[f"{name}_p_holm"])
        cells["Smallest p"] = p_text(row["asr_p_smallest"])
        cells["Pairs"] = f"n={row['asr_difference_n']}"
        rows.append(cells)
    return pd.DataFrame(rows)


def difference_cell(mean: float, low: float, high: float) -> str:
    """`+0.25 [+0.10, +0.40]`; the mean alone without an interval."""
    return signed(mean) + (f" [{signed(low)}, {signed(high)}]" if np.isfinite(low) else "")


def cycles_text(values: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of the three metrics in each cycle, a row per sequence and arm; empty with one cycle."""
    cycles = [name for name in values if re.fullmatch(r"(asr|fm|fwt)_cycle_\d+", name)]
    if not any(name.endswith("_2") for name in cycles):
        return pd.DataFrame()
    rows = []
    for (sequence, arm), own in values.groupby(["sequence", "arm"], sort=False):
        row = {"Sequence": sequence, "Arm": arm}
        for name in sorted(cycles, key=lambda name: (int(name.rsplit("_", 1)[1]), cycles.index(name))):
            metric, _, cycle = name.split("_")
            row[f"{metric.upper()}, cycle {cycle}"] = number(own[name].mean())
        rows.append(row)
    return pd.DataFrame(rows)


def cost_text(costs: pd.DataFrame) -> pd.DataFrame:
    """Mean use over seeds, a row per sequence and arm."""
    rows = []
    for (sequence, arm), own in costs.groupby(["sequence", "arm"], sort=False):
        mean = own.drop(columns=["sequence", "arm", "seed"]).mean()
        rows.append(
            {
                "Sequence": sequence,
                "Arm": arm,
                "Env steps": steps_text(mean["env_steps"]),
                "Of them auxiliary": steps_text(mean["auxiliary_env_steps"]),
                "Scoring steps": steps_text(mean["scoring_env_steps"]),
                "Updates": steps_text(mean["updates"]),
                "Wall time": time_text(mean["wall_s"]),
                "Env steps/s": number(mean["env_steps_per_s"], 1),
                "Runs": str(len(own)),
            }
        )
    return pd.DataFrame(rows)


def cost_over_baseline_text(costs: pd.DataFrame, baseline: str | None) -> pd.DataFrame:
    """`cost_over_baseline` as text; without a baseline the columns of ratios are left out."""
    rows = [
        {
            "Sequence": row["sequence"],
            "Arm": row["arm"],
            "Updates/s": number(row["updates_per_s"], 1),
            **({f"Time per update, × {baseline}": number(row["time_ratio"])} if baseline else {}),  # noqa: RUF001
            "Parameters": steps_text(row["trainable_parameters"]),
            **({f"Parameters, × {baseline}": number(row["parameters_ratio"])} if baseline else {}),  # noqa: RUF001
            "Networks": bytes_text(row["network_bytes"]),
            "Method's state": bytes_text(row["method_bytes"]),
            "D_pre": bytes_text(row["prior_bytes"]),
        }
        for row in cost_over_baseline(costs, baseline).to_dict("records")
    ]
    return pd.DataFrame(rows)


def threshold_text(values: pd.DataFrame, sequence: str) -> pd.DataFrame:
    """Median env steps to mastery over all seeds, and how many got there; a row per arm, a column per visit.

    A seed that never got there counts as later than all that did, so that no arm is the faster for failing more often.
    """
    rows = []
    for arm, own in values[values["sequence"] == sequence].groupby("arm", sort=False):
        row = {"Arm": arm}
        for (visit, task), seeds in own.groupby(["visit", "task"]):
            reached = int(seeds["env_steps_to_threshold"].notna().sum())
            median = float(seeds["env_steps_to_threshold"].fillna(np.inf).median())
            steps = steps_text(median) if np.isfinite(median) else "mostly not" if reached else "never"
            row[f"{visit}: {short_name(task)}"] = f"{steps} ({reached}/{len(seeds)})"
        rows.append(row)
    return pd.DataFrame(rows).fillna(NO_VALUE)


def neurons_text(summary: pd.DataFrame) -> pd.DataFrame:
    """`neuron_summary` as text."""
    rows = [
        {
            "Visit": f"{row['visit']}: {short_name(row['task'])}",
            "Network": row["network"],
            "Goal rate p": number(row["label_rate"]),
            "Skill neurons": percent(row["skill_frac"]),
            "Constant": percent(row["constant_frac"]),
            "Constant among skill": percent(row["constant_skill_frac"]),
            "Beyond chance among skill": percent(row["significant_skill_frac"]),
            "Highest score": number(row["max_score"]),
            "Seeds": str(row["seeds"]),
        }
        for row in summary.to_dict("records")
    ]
    return pd.DataFrame(rows)


def comparison_text(comparison: pd.DataFrame) -> pd.DataFrame:
    """`compare_with_paper` as text."""
    rows = [
        {
            "Sequence": row["sequence"],
            "Arm": arm_text(row["arm"], row["method"]),
            "Metric": SUMMARY[row["metric"]],
            "Ours": interval_text(row["mean"], row["low"], row["high"]),
            "Seeds": f"n={row['n']}",
            "Paper": f"{row['paper_mean']:.2f} ± {row['paper_spread']:.2f}",
            "Source": f"{row['source']}, {row['paper_method']}",
            "Difference": difference_cell(row["difference"], row["difference_low"], row["difference_high"]),
            "Verdict": row["verdict"],
        }
        for row in comparison.to_dict("records")
    ]
    return pd.DataFrame(rows)


def without_one_sequence(table: pd.DataFrame) -> pd.DataFrame:
    """A table without the column that says the same sequence in every row: a page is narrower than a file."""
    same = "Sequence" in table and table["Sequence"].nunique() == 1 and len(table.columns) > 2
    return table.drop(columns="Sequence") if same else table


def to_markdown(table: pd.DataFrame) -> str:
    """A text table as Markdown, its columns padded to line up in a terminal."""
    lines = [list(map(str, table.columns)), *([str(cell) for cell in row] for row in table.itertuples(index=False))]
    lines = [[markdown(cell).replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    padded = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([padded[0], "| " + " | ".join("-" * w for w in widths) + " |", *padded[1:]])


def markdown(text: str) -> str:
    """Text of a file as plain words of Markdown, on one line: no HTML, no link and no picture comes of a name."""
    return printable(text.replace("\n", " ")).replace("<", "&lt;").replace("](", "]\\(").replace("`", "\\`")


# Numbers and names


def number(value: float, digits: int = 2) -> str:
    """A number with fixed digits; a dash if there is none; never -0.00."""
    return f"{round(value, digits) + 0.0:.{digits}f}" if np.isfinite(value) else NO_VALUE


def signed(value: float) -> str:
    """A difference with its sign."""
    return ("+" if round(value, 2) > 0 else "") + number(value) if np.isfinite(value) else NO_VALUE


def p_text(value: float) -> str:
    """A p-value with three digits after the point, and a bound where these are zeros."""
    return NO_VALUE if not np.isfinite(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.0f} %" if np.isfinite(value) else NO_VALUE


def steps_text(value: float) -> str:
    """A step count in thousands or millions."""
    if not np.isfinite(value):
        return NO_VALUE
    return f"{value / 1e6:.2f}M" if value >= 999_500 else f"{value / 1e3:.1f}k" if value >= 1_000 else f"{value:.0f}"


def bytes_text(value: float) -> str:
    """A size in bytes, kB, MB or GB of powers of ten."""
    if not np.isfinite(value):
        return NO_VALUE
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= 0.9995 * unit:
            return f"{value / unit:.1f} {name}"
    return f"{value:.0f} B"


def time_text(seconds: float) -> str:
    """A duration in seconds, minutes or hours."""
    if not np.isfinite(seconds):
        return NO_VALUE
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 5400
        else f"{seconds / 60:.1f} min"
        if seconds >= 90
        else f"{seconds:.0f} s"
    )


def short_name(task: str) -> str:
    """A task's name without its version: `window-open-v3` -> `window-open`."""
    return re.sub(r"-v\d+$", "", task)
