"""Analysis of finished runs: rows -> tidy frames -> metrics -> tables, figures and a report.

It only reads files, so it needs neither Ray nor torch:

    from analysis import load_evaluations, load_results, metrics, success_array

    frame = load_evaluations("results/quickstart")           # columns: EVALUATION_COLUMNS
    results = load_results("results/quickstart")
    success = success_array(results, "window_pair", "nbsp")  # values[seed, visit, task]
    metrics.forgetting(success.values, success.order.order)  # one number per seed
"""

from __future__ import annotations

from . import metrics, protocols, skill, statistics
from .aggregate import aggregate_table
from .consistency import check_row
from .differences import difference_table
from .errors import AnalysisError, DataError, UnknownNameError
from .load import find_runs, load_evaluations, load_results, load_study, load_training
from .measures import measure_values, task_values
from .mechanism import layer_values, mechanism_values, step_ratios
from .neurons import incoming_changes, load_neurons
from .paper import compare_with_paper, load_paper
from .schema import (
    COSTS,
    EVALUATION_COLUMNS,
    FURTHER_TRAINING_COLUMNS,
    MECHANISM_COLUMNS,
    NEURON_COLUMNS,
    PAPER_COLUMNS,
    TRAINING_COLUMNS,
    Results,
    Run,
    Study,
    TaskOrder,
)
from .seeds import seed_table
from .tables import SuccessArray, metric_table, metric_values, success_array

__all__ = [
    "COSTS",
    "EVALUATION_COLUMNS",
    "FURTHER_TRAINING_COLUMNS",
    "MECHANISM_COLUMNS",
    "NEURON_COLUMNS",
    "PAPER_COLUMNS",
    "TRAINING_COLUMNS",
    "AnalysisError",
    "DataError",
    "Results",
    "Run",
    "Study",
    "SuccessArray",
    "TaskOrder",
    "UnknownNameError",
    "aggregate_table",
    "check_row",
    "compare_with_paper",
    "difference_table",
    "find_runs",
    "incoming_changes",
    "layer_values",
    "load_evaluations",
    "load_neurons",
    "load_paper",
    "load_results",
    "load_study",
    "load_training",
    "measure_values",
    "mechanism_values",
    "metric_table",
    "metric_values",
    "metrics",
    "protocols",
    "seed_table",
    "skill",
    "statistics",
    "step_ratios",
    "success_array",
    "task_values",
]
