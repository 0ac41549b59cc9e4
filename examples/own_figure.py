"""A figure and a table of one's own from a study's rows: `python own_figure.py results/NAME` writes both beside it."""

import sys

from matplotlib.figure import Figure

from analysis import difference_table, figures, load_results, metric_values, success_array, tables

results = load_results(sys.argv[1])
sequence, order = next(iter(results.orders.items()))
arms = [arm for arm in tables.arm_order(results) if arm in set(results.evaluations["arm"])]
styles = figures.arm_styles(arms, dict(results.evaluations[["arm", "method"]].itertuples(index=False)))

with figures.settings():  # the report's fonts; leave it out and your own matplotlibrc counts
    figure = Figure(figsize=(figures.DOUBLE, 2.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    figures.matrix(left, success_array(results, sequence, arms[-1]), width=2)
    for arm, style in styles.items():
        figures.forgetting_curve(right, success_array(results, sequence, arm), style)
    right.set(title="Kept of a task", xlabel="visits since it was trained", ylabel="success rate")
    figure.savefig("own_figure.pdf")

table = difference_table(results, metric_values(results))  # columns: its docstring
table[["arm", "asr_difference", "asr_difference_low", "asr_difference_high"]].to_csv("own_table.csv", index=False)
