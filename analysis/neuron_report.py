"""What is known of a study's skill neurons, written into one folder: `neurons.md` and a CSV file for each table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from . import skill
from .errors import DataError, check_known
from .load import find_runs, load_training
from .neurons import incoming_changes, neurons_of
from .text import markdown, number, percent, short_name, to_markdown

ABOUT = {
    "Selection": "Which neurons the masks brake. Constant: never, or always, above their mean on the scored rollout: "
    "they follow no goal. Beyond chance: they follow it by more than the goal turned against them does, at a false "
    f"discovery rate of {skill.LEVEL:g}.",
    "By layer": "The same by hidden layer, mean over seeds.",
    "Overlap": "Skill neurons that two scorings have in common, as a share of the smaller set, beside that of random "
    "sets. Neurons of two seeds have their places alone in common.",
    "What became of them": "Of a visit's skill neurons, at the end of the next one: constant already when selected; "
    "dead, constant since; reused, selected again; kept, incoming weights changed by at most "
    f"{skill.KEPT:.0%}; or drifted. Changes are medians: of incoming weights over the next visit, of the standard "
    "activation to the task's next visit.",
    "Capacity": "Share of a network in the union of all its masks, and at more tasks if each takes of what is free the "
    "share that those so far took.",
    "Masked neurons that were constant": "What the training rows tell of the masks in force during a visit, which were "
    "scored after the one before.",
}


@dataclass(frozen=True)
class NeuronReport:
    """Where it lies and what it says."""

    path: Path
    tables: dict[str, pd.DataFrame]
    """Texts by title, a key of `ABOUT`."""
    notes: list[str]


def write_neuron_report(
    results: str | Path, out: str | Path | None = None, sequence: str | None = None, arm: str | None = None
) -> NeuronReport:
    """Read the neurons of a study and write what they are and what became of them.

    Args:
        results: the study's folder.
        out: where the files go; None: `results/neurons`.
        sequence: only this one.
        arm: only this one.

    Raises:
        UnknownNameError: if no run has that sequence or arm.
        DataError: if the results are missing or damaged, or tell nothing of neurons.
        OSError: if the folder cannot be written.
    """
    notes: list[str] = []
    runs = find_runs(results, notes)
    check_known("sequence", sequence, [run.sequence for run in runs])
    check_known("arm", arm, [run.arm for run in runs])
    runs = [run for run in runs if sequence in (None, run.sequence) and arm in (None, run.arm)]
    neurons = neurons_of(runs, notes=notes)
    if len(neurons):
        frames = {"neurons": skill.with_significance(neurons), **frames_of(neurons, incoming_changes(runs, notes))}
        tables = texts_of(frames)
    else:
        told = skill.constant_masked(load_training(results, notes))
        kept = {(run.sequence, run.arm) for run in runs}
        told = told[[key in kept for key in zip(told["sequence"], told["arm"], strict=True)]] if len(told) else told
        if told.empty:
            raise DataError(f"{results}: no run has neurons/visit_NN.npz, and no training row tells of masked neurons")
        frames = {"constant_masked": told}
        tables = {"Masked neurons that were constant": constant_masked_text(told)}
        notes.append("no run has neurons/visit_NN.npz: this is what the training rows tell")
    folder = Path(results) / "neurons" if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        (folder / f"{name}.csv").write_bytes(frame.to_csv(index=False, lineterminator="\n").encode())
    parts = ["# Skill neurons"]
    for title, table in tables.items():
        parts += [f"## {title}", ABOUT[title], to_markdown(table)]
    parts += ["## Notes", "\n".join(f"- {markdown(note)}" for note in notes) or "- none"]
    (folder / "neurons.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return NeuronReport(folder / "neurons.md", tables, notes)


def frames_of(neurons: pd.DataFrame, changes: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables of `analysis.skill`, by the name of their file.

    Args:
        neurons: of `load_neurons`, not empty.
        changes: of `incoming_changes`, of the same runs.
    """
    fates = skill.fates(neurons, changes)
    return {
        "selection": skill.selection(neurons),
        "layers": skill.selection(neurons, by_layer=True),
        "overlaps": skill.overlaps(neurons),
        "fates": fates,
        "fate_shares": skill.fate_shares(fates),
        "ledger": skill.ledger(neurons),
    }


def texts_of(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Those frames as tables of text, by title; empty ones are left out."""
    texts = {
        "Selection": selection_text(frames["selection"]),
        "By layer": selection_text(_over_seeds(frames["layers"])),
        "Overlap": overlap_text(frames["overlaps"]),
        "What became of them": fate_text(frames["fate_shares"]),
        "Capacity": ledger_text(frames["ledger"]),
    }
    return {title: text for title, text in texts.items() if len(text)}


def _over_seeds(layers: pd.DataFrame) -> pd.DataFrame:
    keys = ["sequence", "arm", "visit", "task", "network", "layer"]
    return layers.drop(columns="seed").groupby(keys, as_index=False).mean()


def selection_text(table: pd.DataFrame) -> pd.DataFrame:
    """`skill.selection` as text."""
    rows = []
    for row in table.to_dict("records"):
        cells = _place(row)
        if "layer" in row:
            cells["Layer"] = str(row["layer"])
        cells |= {
            "Goal rate p": number(row["label_rate"]),
            "Skill": percent(row["skill_frac"]),
            "Constant": percent(row["constant_frac"]),
            "Beyond chance": percent(row["significant_frac"]),
            "Constant among skill": percent(row["constant_skill_frac"]),
            "Beyond chance among skill": percent(row["significant_skill_frac"]),
        }
        rows.append(cells)
    return pd.DataFrame(rows)


def overlap_text(table: pd.DataFrame) -> pd.DataFrame:
    """`skill.overlaps` as text: means over the pairs of each kind."""
    if table.empty:
        return table
    means = table.groupby(["sequence", "arm", "network", "between"], as_index=False).agg(
        overlap=("overlap", "mean"), chance=("chance", "mean"), pairs=("overlap", "count")
    )
    rows = [
        {
            "Sequence": row["sequence"],
            "Arm": row["arm"],
            "Network": row["network"],
            "Between": row["between"],
            "Overlap": percent(row["overlap"]),
            "By chance": percent(row["chance"]),
            "Pairs": str(row["pairs"]),
        }
        for row in means.to_dict("records")
    ]
    return pd.DataFrame(rows)


def fate_text(table: pd.DataFrame) -> pd.DataFrame:
    """`skill.fate_shares` as text."""
    rows = []
    for row in table.to_dict("records"):
        cells = _place(row) | {name.capitalize(): percent(row[name]) for name in skill.FATES}
        cells |= {
            "Weights, skill": percent(row["skill_weight_change"]),
            "Weights, free": percent(row["free_weight_change"]),
            "Activation, skill": percent(row["skill_activation_change"]),
            "Activation, free": percent(row["free_activation_change"]),
        }
        rows.append(cells)
    return pd.DataFrame(rows)


def ledger_text(table: pd.DataFrame) -> pd.DataFrame:
    """`skill.ledger` as text."""
    rows = [
        {
            "Sequence": row["sequence"],
            "Arm": row["arm"],
            "Seed": str(row["seed"]),
            "Network": row["network"],
            "Tasks": str(row["tasks"]),
            "One visit at most": percent(row["largest"]),
            "Used": percent(row["used"]),
            **{f"At {n} tasks": percent(row[f"used_{n}"]) for n in skill.PROJECTED},
        }
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows)


def constant_masked_text(table: pd.DataFrame) -> pd.DataFrame:
    """`skill.constant_masked` as text."""
    rows = [
        {
            "Sequence": row["sequence"],
            "Arm": row["arm"],
            "Seed": str(row["seed"]),
            "Visit": str(row["visit"]),
            "Goal rate p": number(row["label_rate"]),
            "Actor": percent(row["policy"]),
            "Critic": percent(row["qf"]),
            "Twin": percent(row["qf_twin"]),
        }
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _place(row: dict[str, object]) -> dict[str, str]:
    cells = {"Sequence": str(row["sequence"]), "Arm": str(row["arm"])}
    if "seed" in row:
        cells["Seed"] = str(row["seed"])
    return cells | {"Visit": f"{row['visit']}: {short_name(str(row['task']))}", "Network": str(row["network"])}
