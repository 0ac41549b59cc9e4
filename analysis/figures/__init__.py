"""Frames -> figures, for papers and for the report; nothing here reads or writes files.

A function that takes an `ax` draws one panel on it, in any figure of one's own; its neighbour that ends in `_figure`
makes the report's figure of such panels, as wide as both columns of a paper. Arms look as `arm_styles` says.
"""

from __future__ import annotations

from .comparisons import (
    forest,
    forest_figure,
    forgetting_curve,
    kept_figure,
    metric_dots,
    metric_over_proportion,
    metrics_figure,
    performance_profile,
    proportion_figure,
    retention,
)
from .curves import group_of, success_figure, success_over_visits
from .matrices import matrices_figure, matrix
from .mechanism import mechanism_figure, mechanism_over_visits
from .neurons import activation_histogram, activations_figure, score_ecdf, scores_figure
from .style import DOUBLE, OVERLAID, SINGLE, ArmStyle, arm_styles, saved, settings
from .tasks import task_frame, task_pixels, tasks_figure
from .training import training_by_cycle, training_figure, training_over_time, training_over_time_figure

__all__ = [
    "DOUBLE",
    "OVERLAID",
    "SINGLE",
    "ArmStyle",
    "activation_histogram",
    "activations_figure",
    "arm_styles",
    "forest",
    "forest_figure",
    "forgetting_curve",
    "group_of",
    "kept_figure",
    "matrices_figure",
    "matrix",
    "mechanism_figure",
    "mechanism_over_visits",
    "metric_dots",
    "metric_over_proportion",
    "metrics_figure",
    "performance_profile",
    "proportion_figure",
    "retention",
    "saved",
    "score_ecdf",
    "scores_figure",
    "settings",
    "success_figure",
    "success_over_visits",
    "task_frame",
    "task_pixels",
    "tasks_figure",
    "training_by_cycle",
    "training_figure",
    "training_over_time",
    "training_over_time_figure",
]
