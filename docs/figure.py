"""The figure of the README: `python -m docs.figure` draws `docs/pendulum_pair.svg` from published rows."""

from __future__ import annotations

from pathlib import Path

import matplotlib

from analysis import load_evaluations

matplotlib.use("svg")
from matplotlib import pyplot as plt

RESULTS = Path("results/published/fast_pendulum_pair")
PAGE = Path(__file__).with_name("pendulum_pair.svg")
ARMS = {"sac": "SAC", "nbsp": "NBSP", "replay_only": "replay only", "mask_only": "masks only", "ewc": "EWC"}
TASKS = {"plain": "first task (visits 1 and 3)", "offset-1": "second task (visits 2 and 4)"}
SEEDS = range(11)


def main() -> None:
    """Success at each task after each visit: a line an arm, the mean over seeds; a point a seed."""
    rows = load_evaluations(RESULTS)
    rows = rows[(rows["phase"] == "boundary") & rows["seed"].isin(SEEDS)]
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rllib_nbsp", "font.size": 9})
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.7), sharey=True, layout="constrained")
    for ax, (task, title) in zip(axes, TASKS.items(), strict=True):
        of_task = rows[rows["eval_task"] == task]
        for number, (arm, label) in enumerate(ARMS.items()):
            own = of_task[of_task["arm"] == arm]
            mean = own.groupby("visit")["success_rate"].mean()
            shift = 0.06 * (number - (len(ARMS) - 1) / 2)
            ax.plot(mean.index + shift, mean, color=f"C{number}", label=label)
            ax.scatter(own["visit"] + shift, own["success_rate"], s=7, color=f"C{number}", alpha=0.5, linewidths=0)
        ax.set(title=title, xlabel="after visit", xticks=[1, 2, 3, 4])
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("success rate")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(PAGE, metadata={"Date": None})


if __name__ == "__main__":
    main()
