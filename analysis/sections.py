"""The sections of a study's report, in order. A new one is a function of the findings and a line in `SECTIONS`."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from . import mechanism, metrics, neuron_report, search, skill, tables
from .blocks import Block, Bullets, Code, Details, Heading, Section, Table, Terms, Words
from .findings import Findings
from .further import further_tables, paper_tables, titled
from .neurons import incoming_changes, neurons_of
from .pictures import comparison_pictures, curve_pictures, mechanism_pictures, neuron_pictures
from .rows import counted
from .text import (
    comparison_text,
    cost_over_baseline_text,
    cost_text,
    cycles_text,
    difference_text,
    neurons_text,
    number,
    short_name,
    summary_text,
    threshold_text,
)

MECHANISM = (
    "At the last measured row of the last visit, on the newest transitions: mean over seeds, 95 % interval (none "
    "for one seed); of the critics the mean of both, of dormant neurons that over layers. Weight distance is to the "
    "visit's start; the effective learning rate and churn are since the measured row before, and compare only at the "
    "same distance. Formulas and sources: the glossary (docs/glossary.md)."
)
STEP_RATIOS = (
    "Of the optimizer's last step, the mean length of masked weights over that of the others: the median over a run's "
    "rows, mean over seeds with its 95 % interval. 1: a mask does nothing; of many constant neurons it need not be 1 "
    "without one either."
)


def summary(found: Findings) -> list[Section]:
    """The metrics of every arm, and their differences to the baseline."""
    of_returns = found.results.of_returns
    headline = found.headline
    blocks: list[Block] = [Words(text, "lead") for text in (headline.sentence, headline.kept) if text]
    if headline.caveats:
        blocks.append(Words(f"{'; '.join(headline.caveats)}; {counted(len(found.notes), 'note')} below."))
    if found.partial:
        blocks.append(Words("The study is not complete: n=1/5 means that 1 of 5 expected seeds is.", "warning"))
    blocks.append(
        Table(
            "summary",
            summary_text(found.table, of_returns),
            "Mean over seeds; ± and brackets are 95 % intervals, and one seed has none. The notes say how far these "
            "numbers carry.",
        )
    )
    if len(found.differences):
        blocks += [
            Heading(f"Paired differences to {found.baseline}"),
            Table(
                "differences",
                difference_text(found.differences, of_returns),
                "Mean over the seeds that both arms have, which met the same environments, with its 95 % interval; p "
                "of a sign-flip test after Holm over all sequences and arms, and the smallest that it can be before, "
                "with so many pairs.",
            ),
        ]
    by_cycle = cycles_text(found.in_order(found.values))
    if len(by_cycle):
        blocks += [Heading("By cycle"), Table("cycles", by_cycle)]
    blocks += further_tables(found.results, found.values)
    protocol = metrics.get_protocol(found.protocol)
    meanings = {
        "ASR ↑ (Eq. 8), of returns AR ↑ (Eq. 12)": "Average success: after every visit the mean success on the tasks "
        "seen so far, averaged over visits.",
        "FM ↓ (Eq. 9)": "Forgetting: how far earlier tasks are below their best, averaged over visits. Below 0: they "
        "got better.",
        "FWT ↑ (Eq. 10)": "Success on the task just trained, averaged over visits. The paper calls it forward "
        "transfer; it is learning accuracy.",
        "Final ↑": "Mean success on all tasks after the last visit.",
        "Relearn ↑": "Success on a task just before it is trained again, mean over tasks; a kept and a lost one make "
        "0.5, so see each task.",
        f"Protocol {protocol.name}": f"{protocol.description}. The equations as printed cannot give the paper's "
        "tables; this names the reading.",
    }
    blocks.append(Details("What the columns mean", [Terms(meanings)]))
    return [Section("summary", "Summary", blocks)]


def paper(found: Findings) -> list[Section]:
    """Our means beside the published ones."""
    if found.comparison is None or found.comparison.empty:
        return []
    blocks: list[Block] = [
        *paper_tables(found.results, found.comparison),
        Details("Arm by arm", [Table("paper", comparison_text(found.comparison))]),
    ]
    return [Section("paper", "Compared with the paper", blocks, short="The paper")]


def searches(found: Findings) -> list[Section]:
    """The best sample of each search."""
    best = search.best_lines(dict(found.samples), found.objective)
    if not best:
        return []
    listed = search.search_text(dict(found.samples), found.objective, found.results.of_returns)
    blocks: list[Block] = [
        Words("The best sample of each search, as a line under arms in a study's file."),
        Code(best, "yaml"),
        Details("All samples", [Table("search", listed)]),
    ]
    return [Section("search", "Search", blocks)]


def sequences(found: Findings) -> list[Section]:
    """For each task sequence its pictures, how fast its tasks were mastered, and its neurons."""
    return [_sequence(found, number, name) for number, name in enumerate(found.results.orders, 1)]


def _sequence(found: Findings, number: int, sequence: str) -> Section:
    results = found.results
    order = results.orders[sequence]
    blocks: list[Block] = [
        Words(f"{' → '.join(map(short_name, order.tasks))} · {len(order.order)} visits"),
        *comparison_pictures(found, sequence),
        *curve_pictures(found, sequence),
        *_thresholds(found, sequence),
    ]
    of_neurons = [block for arm in found.arms_of(sequence) for block in _neurons(found, sequence, arm)]
    blocks += of_neurons or _constant_masked(found, sequence)
    return Section(f"sequence-{number}", sequence, blocks)


def _thresholds(found: Findings, sequence: str) -> list[Block]:
    values = found.thresholds
    own = found.in_order(values[values["sequence"] == sequence]) if len(values) else values
    if own.empty:
        return []
    note = (
        "From the start of the visit to the first evaluation at that success, as in the curves: the median over all "
        "seeds, of which those that never got there are the latest; in parentheses how many did."
    )
    return [
        Heading(f"Env steps to {tables.THRESHOLD:.0%} success in evaluation"),
        Table(f"thresholds_{sequence}", threshold_text(own, sequence), note),
    ]


def _neurons(found: Findings, sequence: str, arm: str) -> list[Block]:
    scores = neurons_of(found.results.runs, sequence, arm, found.notes)
    if scores.empty:
        return []
    note = (
        "Constant neurons are never, or always, above their mean activation, so they follow no goal; the score of "
        "Eq. 4 may still rank them high. Beyond chance: more than the goal turned against the neurons comes to, at a "
        "false discovery rate of 5 %."
    )
    folded: list[Block] = [Table(f"neurons_{sequence}_{arm}", neurons_text(tables.neuron_summary(scores)), note)]
    changes = incoming_changes(run for run in found.results.runs if (run.sequence, run.arm) == (sequence, arm))
    for title, text in neuron_report.texts_of(neuron_report.frames_of(scores, changes)).items():
        if title != "Selection":  # which the first table is
            name = f"{title.lower().replace(' ', '_')}_{sequence}_{arm}"
            own = text.drop(columns=["Sequence", "Arm"])
            folded += [Heading(title), Table(name, own, neuron_report.ABOUT[title])]
    return [*neuron_pictures(found, sequence, arm, scores), Details(f"Skill neurons of {arm}", folded)]


def _constant_masked(found: Findings, sequence: str) -> list[Block]:
    """What training rows tell of the masks, where no run has kept its neurons."""
    training = found.results.training
    text = neuron_report.constant_masked_text(skill.constant_masked(training[training["sequence"] == sequence]))
    if text.empty:
        return []
    title = "Masked neurons that were constant"
    note = f"{neuron_report.ABOUT[title]} A mask on constant neurons is no test of masking skill neurons."
    return [Details(title, [Table(f"constant_masked_{sequence}", text, note)])]


def plasticity(found: Findings) -> list[Section]:
    """Dormant neurons, ranks, weights and churn of actor and critics, where training rows have them."""
    training = found.results.training
    values = mechanism.mechanism_values(training)
    if values.empty:
        return []
    blocks: list[Block] = [
        picture
        for sequence, own in values.groupby("sequence")
        for picture in mechanism_pictures(found, str(sequence), own)
    ]
    ends = _of_last_visits(found, mechanism.at_the_end(values, ["network"]))
    layers = _of_last_visits(found, mechanism.layer_values(training))
    ratios = found.in_order(mechanism.step_ratios(training))
    shown = {
        "At the end of a run": Table("mechanism", mechanism.ends_text(ends, mechanism.MAIN, ["network"]), MECHANISM),
        "What masks do to a step": Table("step_ratios", mechanism.step_ratios_text(ratios), STEP_RATIOS),
    }
    folded = {
        "Of each layer": Table(
            "mechanism_layers", mechanism.ends_text(layers, mechanism.BY_LAYER, ["network", "layer"])
        ),
        "Norms, and the parts of churn": Table(
            "mechanism_norms", mechanism.ends_text(ends, mechanism.FURTHER, ["network"])
        ),
    }
    blocks += titled(shown)
    if further := titled(folded):
        blocks.append(Details("More of actor and critics", further))
    return [Section("plasticity", "Plasticity", blocks)]


def _of_last_visits(found: Findings, values: pd.DataFrame) -> pd.DataFrame:
    """The rows of each sequence's last visit, by sequence and arm."""
    if values.empty:
        return values
    last = values["sequence"].map({name: len(order.order) for name, order in found.results.orders.items()})
    return found.in_order(values[values["visit"] == last])


def cost(found: Findings) -> list[Section]:
    """What runs and methods cost."""
    costs = found.in_order(found.costs)
    blocks: list[Block] = [
        Heading("Cost of a run"),
        Table(
            "costs",
            cost_text(costs),
            "Mean over seeds. Auxiliary steps are those of phases beside a visit's main one; scoring steps come on top "
            "of the env steps. Wall time includes evaluation and scoring. A dash: the runs left no such number.",
        ),
        Heading("Cost of a method"),
        Table(
            "method_costs",
            cost_over_baseline_text(costs, found.baseline),
            "Updates/s is the median over the reporting intervals that had updates, their environment steps and "
            "evaluations included, on whatever else the machine did. Networks are weights and targets; the method's "
            "state and D_pre are what the last visit left.",
        ),
    ]
    return [Section("cost", "Cost", blocks)]


def faults(found: Findings) -> list[Section]:
    """What runs survived: environments that were built anew and rollout workers that did not answer."""
    training = found.results.training
    runs = training.groupby(["sequence", "arm", "seed"], as_index=False, sort=False)[["rebuilt_envs", "lost_fragments"]]
    counts = runs.max()
    hit = counts[(counts["rebuilt_envs"] > 0) | (counts["lost_fragments"] > 0)]
    if hit.empty:
        return [Section("faults", "Faults", [Words("No run says that an environment or a rollout worker failed.")])]
    table = pd.DataFrame(
        {
            "Sequence": hit["sequence"],
            "Arm": hit["arm"],
            "Seed": hit["seed"].astype(str),
            "Rebuilt environments": [number(value, 0) for value in hit["rebuilt_envs"]],
            "Lost fragments": [number(value, 0) for value in hit["lost_fragments"]],
        }
    )
    note = f"Of {counted(len(counts), 'run')}, these went on after faults; the others say of none."
    return [Section("faults", "Faults", [Table("faults", table, note)])]


def notes(found: Findings) -> list[Section]:
    """What a reader must know before believing the numbers."""
    return [Section("notes", "Notes", [Bullets(found.notes)], short=f"Notes ({len(found.notes)})")]


def origin(found: Findings) -> list[Section]:
    """Which settings and versions the rows are of."""
    results = found.results
    hashes = results.evaluations[["sequence", "arm", "config_hash"]].drop_duplicates().fillna("")
    named = hashes.rename(columns={"sequence": "Sequence", "arm": "Arm", "config_hash": "Config hash"})
    names = sorted({name for run in results.runs for name in run.versions})
    of = {name: sorted({run.versions[name] for run in results.runs if name in run.versions}) for name in names}
    blocks: list[Block] = [Words(_made_with(of), "plain")]
    if of:
        table = pd.DataFrame([{"Package": name, "Version": ", ".join(versions)} for name, versions in of.items()])
        blocks.append(Details("Versions", [Table("versions", table)]))
    blocks.append(Details("Settings, by their hash", [Table("hashes", named)]))
    return [Section("origin", "Origin", blocks)]


def _made_with(versions: dict[str, list[str]]) -> str:
    """Commit, our version, the emulator's and the machine, in one line; what a run did not write down is said."""
    names = {"commit": "commit", "rllib_nbsp": "rllib_nbsp", "ale-py": "ale-py", "device": "on"}
    told = [f"{word} {' and '.join(versions[name])}" for name, word in names.items() if name in versions]
    missing = [name for name in ("commit", "rllib_nbsp", "device") if name not in versions]
    unknown = f"; the runs did not write down: {', '.join(missing)}" if missing else ""
    return f"Made with {', '.join(told)}{unknown}." if told else f"The runs did not write down: {', '.join(missing)}."


SECTIONS: tuple[Callable[[Findings], list[Section]], ...] = (
    summary,
    paper,
    searches,
    sequences,
    plasticity,
    cost,
    faults,
    notes,  # after all that may add to them
    origin,
)
