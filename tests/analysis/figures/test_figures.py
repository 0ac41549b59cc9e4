"""Figures as they are read: what is drawn where, nothing clipped, nothing on top of each other."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import figures, load_neurons, load_results, success_array
from analysis.activations import Activation, top_activations
from analysis.blocks import pictures
from analysis.errors import MissingToolError
from analysis.figures.mechanism import DRAWN
from analysis.figures.style import MISSING, SHARED
from analysis.findings import find
from analysis.mechanism import mechanism_values
from analysis.sections import plasticity, sequences
from analysis.text import short_name
from tests.analysis.conftest import FORGETFUL, PAIR, PERFECT, StudyBuilder

FOUR = [
    "a-task-with-a-very-long-name-that-goes-on-v3",
    "window-close-v3",
    "door-open-v3",
    "button-press-topdown-wall-v3",
]
ARMS = [
    "sac",
    "nbsp",
    "an_arm_whose_label_says_every_single_key_of_its_settings",
    "ewc",
    "npc",
    "cbp",
    "l2",
    "agem",
    "x",
]


def made_of(folder, arms, tasks, cycles, seeds=2):
    """Findings of a study whose arms forget more and more; the second arm shares the first one's first visit."""
    study = StudyBuilder(folder)
    rng = np.random.default_rng(0)
    for arm in arms:
        for seed in range(seeds):
            success = rng.uniform(size=(len(tasks) * cycles, len(tasks))).round(2).tolist()
            method = arm if arm in ("sac", "nbsp") else "ewc"
            told = {"neurons": arm == "nbsp", "mechanism": True}
            study.run(success, arm=arm, method=method, seed=seed, tasks=tasks, cycles=cycles, **told)
    for name in ("evaluations", "training"):
        for path in folder.glob(f"*/{arms[1]}/seed_*/{name}.jsonl"):
            rows = study.read_rows(path)
            study.write_rows(path, [row | ({"shared_from": arms[0]} if row["visit"] == 1 else {}) for row in rows])
    return find(folder, compare=False, protocol="nbsp-visits")


@pytest.fixture(scope="module", params=[(2, PAIR), (5, FOUR), (9, FOUR)], ids=["2 arms", "5 arms", "9 arms, 4 tasks"])
def shown(request, tmp_path_factory):
    """The pictures of a study's sequences."""
    count, tasks = request.param
    found = made_of(tmp_path_factory.mktemp("figures"), ARMS[:count], tasks, 2)
    return pictures(sequences(found) + plasticity(found))


@pytest.fixture(scope="module", params=[figures.SINGLE, figures.DOUBLE], ids=["one column", "both columns"])
def drawn(request, shown):
    """All pictures of a study that a width can hold, laid out."""
    fit = [picture for picture in shown if request.param == figures.DOUBLE or not picture.wide_alone]
    made = {picture.name: picture.draw(width=request.param) for picture in fit}
    for figure in made.values():
        figures.saved(figure, "png")
        FigureCanvasAgg(figure)
    return made


def boxes_of(figure: Figure, texts: list[Text]):
    renderer = figure.canvas.get_renderer()
    return [text.get_window_extent(renderer) for text in texts if text.get_visible() and text.get_text().strip()]


def labels_are_apart(figure: Figure):
    """Each panel has two values or more along its axis, and none touches the next."""
    figures.saved(figure, "png")
    FigureCanvasAgg(figure)
    for ax in figure.axes:
        boxes = boxes_of(figure, ax.get_xticklabels())
        assert len(boxes) >= 2
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_no_text_no_colour_bar_and_no_panel_is_clipped(drawn):
    for name, figure in drawn.items():
        whole = figure.bbox
        panels = [ax for ax in figure.axes if ax.get_visible()]
        renderer = figure.canvas.get_renderer()
        beside = [text for text in (figure._supxlabel, figure._supylabel) if text is not None]
        found = [item.get_window_extent(renderer) for item in (*beside, *figure.legends)]
        found += [ax.get_tightbbox(renderer) for ax in panels]  # with ticks, titles and what is written in it
        assert found
        for box in found:
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1, name


def test_titles_and_labels_beside_panels_do_not_collide(drawn):
    for name, figure in drawn.items():
        panels = [ax for ax in figure.axes if ax.get_visible()]
        titles = [text for ax in panels for text in (ax.title, ax._left_title)]
        sides = [ax.yaxis.label for ax in panels]
        whole = [text for text in (figure._supxlabel, figure._supylabel, *figure.legends) if text is not None]
        renderer = figure.canvas.get_renderer()
        boxes = boxes_of(figure, titles + sides) + [item.get_window_extent(renderer) for item in whole]
        for one, other in itertools.combinations(boxes, 2):
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            down = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert across <= 1 or down <= 1, (name, one, other)


def test_steps_and_values_along_an_axis_do_not_collide(drawn):
    for name, figure in drawn.items():
        for ax in figure.axes:
            labels = [label for label in ax.get_xticklabels() if label.get_rotation() == 0]
            boxes = sorted(boxes_of(figure, labels), key=lambda box: box.x0)
            assert all(left.x1 <= right.x0 + 1 for left, right in itertools.pairwise(boxes)), (name, labels)


@pytest.mark.parametrize("reach", [0.004, 0.02, 0.2, 0.3, 0.5, 0.9])
def test_values_along_forests_in_one_column_do_not_collide(reach):
    parts = {"": 0.0, "_low": -reach, "_high": reach, "_n": 3}
    row = {f"{metric}_difference{part}": value for metric in ("asr", "fm", "fwt") for part, value in parts.items()}
    styles = figures.arm_styles(["sac", "nbsp"])
    figure = figures.forest_figure(pd.DataFrame([{"arm": "nbsp", **row}]), styles, "sac", width=figures.SINGLE)
    labels_are_apart(figure)


def test_above_five_arms_each_has_a_row_with_the_baseline_behind_it_in_grey(tmp_path):
    found = made_of(tmp_path, ARMS[:6], PAIR, 2, seeds=1)
    rows = found.results.evaluations
    order = found.results.orders["pair"]
    figure = figures.success_figure(rows, order, found.styles, baseline="sac")
    grid = np.array(figure.axes).reshape(6, 2)
    grey = found.styles["sac"].color
    for number, arm in enumerate(found.styles):
        colours = {line.get_color() for line in grid[number, 0].get_lines() if len(line.get_xdata()) > 2}
        assert colours - {SHARED, "#888888"} == {grey, found.styles[arm].color}
    assert len(figures.success_figure(rows, order, found.styles, baseline="sac", together=True).axes) == 2


def test_a_shared_first_visit_is_drawn_once_and_named(tmp_path):
    found = made_of(tmp_path, ["sac", "nbsp", "ewc"], PAIR, 2, seeds=1)
    order = found.results.orders["pair"]
    ax = Figure().subplots()
    figures.success_over_visits(ax, found.results.evaluations, order, PAIR[0], found.styles)
    by_colour = {
        colour: [line for line in ax.get_lines() if line.get_color() == colour]
        for colour in (SHARED, *(found.styles[arm].color for arm in ("sac", "nbsp", "ewc")))
    }
    assert len(by_colour[SHARED]) == 1
    assert np.nanmax(by_colour[SHARED][0].get_xdata()) == 1000
    for arm, start in (("sac", 1000), ("nbsp", 1000), ("ewc", 250)):
        first = min(np.nanmin(line.get_xdata()) for line in by_colour[found.styles[arm].color])
        assert first == start, arm
    figure = figures.success_figure(found.results.evaluations, order, found.styles)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-1] == "visit 1, made once: sac, nbsp"


def test_mechanism_is_drawn_of_all_arms_together_or_of_each_before_the_baseline(tmp_path):
    found = made_of(tmp_path, ARMS[:6], PAIR, 2)
    values, order = mechanism_values(found.results.training), found.results.orders["pair"]
    together = figures.mechanism_figure(values, order, {arm: found.styles[arm] for arm in ARMS[:5]})
    assert [ax.get_title(loc="left") for ax in together.axes[:2]] == ["actor", "critics"]
    assert len(together.axes) == 2 * len(DRAWN)
    apart = figures.mechanism_figure(values, order, found.styles, networks=["critics"], baseline="sac")
    grid = np.array(apart.axes).reshape(6, len(DRAWN))
    grey = found.styles["sac"].color
    for line, arm in zip(grid, found.styles, strict=True):
        for ax in line:
            colours = {part.get_color() for part in ax.get_lines() if part.get_transform() == ax.transData}
            assert colours - {SHARED} == {grey, found.styles[arm].color}


def test_a_mechanism_panel_shows_the_mean_over_seeds_at_its_visit(study):
    for seed in (0, 2):
        study.run(arm="sac", seed=seed, mechanism=True)
    results = load_results(study.root)
    ax, styles = Figure().subplots(), figures.arm_styles(["sac"])
    values = mechanism_values(results.training)
    figures.mechanism_over_visits(ax, values, results.orders["pair"], "effective_lr", "actor", styles)
    mean = next(line for line in ax.get_lines() if line.get_linewidth() == 1.5)
    shown = {float(x): float(y) for x, y in zip(*mean.get_data(), strict=True) if np.isfinite(y)}
    # 1e-4 times the visit's number and the seed's, at the end of each visit of 1000 steps; nothing at its first row.
    assert shown == pytest.approx({1000.0: 2e-4, 2000.0: 3e-4, 3000.0: 4e-4, 4000.0: 5e-4})
    assert ax.get_ylim() == pytest.approx((1e-4, 1e-3))


def test_a_curve_is_the_mean_over_seeds_and_one_that_ended_keeps_its_last_value(study):
    study.run([[1.0]], tasks=["a"], cycles=1, visit_env_steps=1000)
    study.run([[0.0]], tasks=["a"], cycles=1, visit_env_steps=500, seed=1)
    results = load_results(study.root)
    ax = Figure().subplots()
    styles = figures.arm_styles(["sac"])
    order = results.orders["pair"]
    figures.success_over_visits(ax, results.evaluations, order, "a", styles)
    thick = next(line for line in ax.get_lines() if line.get_linewidth() == 1.5)
    # Seed 0 rises as 0.25, 0.75, 1 at 250, 750, 1000; seed 1 stays at 0 from 500 on. From 250 on both have begun.
    at = dict(zip(*thick.get_data(), strict=True))
    assert at[250] == pytest.approx(0.125) and at[500] == pytest.approx(0.25) and at[1000] == pytest.approx(0.5)


def test_training_by_cycle_places_a_tasks_visits_side_by_side(study):
    study.run()
    results = load_results(study.root)
    ax = Figure().subplots()
    styles = figures.arm_styles(["sac"])
    figures.training_by_cycle(ax, results.training, results.orders["pair"], PAIR[1], styles)
    line = next(line for line in ax.get_lines() if line.get_linewidth() == 1.5)
    steps, values = (np.asarray(data)[np.isfinite(line.get_xdata())] for data in line.get_data())
    assert steps.tolist() == [750, 1000, 1750, 2000] and values.tolist() == [0.75, 1.0, 0.75, 1.0]
    assert ax.get_xlim() == (0, 2000)


def test_retention_by_hand(study):
    study.run(FORGETFUL)
    array = success_array(load_results(study.root), "pair", "sac")
    # Just trained: 1, 1, 1, 1. One visit later: task 1 after visits 2 and 4 (0.5, 0), task 2 after visit 3 (0.5).
    assert figures.retention(array).tolist() == [[1.0, pytest.approx(1 / 3)]]


def test_a_forest_shows_the_differences_and_leaves_out_the_baseline(study):
    for seed in range(3):
        study.run(FORGETFUL, arm="sac", seed=seed)
        study.run(PERFECT, arm="nbsp", seed=seed)
    found = find(study.root, compare=False, protocol="nbsp-visits")
    ax = Figure().subplots()
    figures.forest(ax, found.differences, "asr", found.styles)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["nbsp"]
    marks = [line.get_xdata() for line in ax.get_lines() if line.get_marker() == "s"]
    assert np.ravel(marks).tolist() == [pytest.approx(0.25)]  # 1 - 0.75
    assert "n=3" in [text.get_text() for text in ax.texts]


def test_a_profile_is_the_share_of_scores_above(study):
    ax = Figure().subplots()
    figures.performance_profile(ax, {"sac": np.array([[0.2, 0.8], [np.nan, 1.0]])}, figures.arm_styles(["sac"]))
    at = dict(zip(*(line := ax.get_lines()[0]).get_data(), strict=True))
    assert [at[x] for x in (0.0, 0.5, 1.0)] == [1.0, pytest.approx(2 / 3), 0.0] and line.get_color()


def test_a_cell_that_was_not_measured_is_hatched_and_never_a_number(study):
    study.run([[1.0, None], [0.5, 1.0], [1.0, 0.5], [0.0, 1.0]])
    ax = Figure().subplots()
    figures.matrix(ax, success_array(load_results(study.root), "pair", "sac"))
    assert (
        len(ax.texts) == 7
        and sum(patch.get_edgecolor()[:3] == pytest.approx((0.733,) * 3, abs=0.01) for patch in ax.patches) == 1
        and MISSING
    )


def test_an_ecdf_ends_at_all_neurons_and_marks_the_selected_part(study):
    study.run(neurons=True, arm="nbsp")
    neurons = load_neurons(study.root)
    rows = neurons[(neurons["network"] == "policy") & (neurons["layer"] == 0) & (neurons["visit"] == 1)]
    ax = Figure().subplots()
    figures.score_ecdf(ax, rows, "#000000")
    steps, bold = ax.get_lines()
    assert steps.get_ydata()[-1] == 1.0 and len(steps.get_ydata()) == 5
    # Of five neurons the best alone has a mask below 1.
    assert np.isfinite(bold.get_ydata()).tolist() == [False] * 4 + [True]


def test_the_histogram_of_a_neuron_has_bars_that_sum_to_one():
    one = Activation(1, "a", "policy", 0, 3, 0.9, np.array([0.0, 1, 2]), np.array([1.0, 3]), np.array([0.0, 0]))
    ax = Figure().subplots()
    figures.activation_histogram(ax, one)
    values = {tuple(patch.get_data().values.tolist()) for patch in ax.patches}
    assert values == {(0.25, 0.75), (0.0, 0.0)}  # no step without the goal: no bars, and no division by 0


@pytest.mark.parametrize("largest", [1e-9, 8e-6, 1.1e-3, 0.2, 3.0, 70.0, 4e5])
def test_the_labels_of_activations_do_not_collide(largest):
    edges = np.linspace(0, largest, 21)
    one = Activation(1, "a", "policy", 0, 3, 0.9, edges, np.ones(20), np.ones(20))
    figure = figures.activations_figure([one] * 3)
    labels_are_apart(figure)
    assert not any(ax.xaxis.get_offset_text().get_text() for ax in figure.axes)


def test_the_neuron_that_is_shown_moves_and_scores_highest(study):
    study.run(neurons=True, arm="nbsp")
    found = top_activations(load_results(study.root).runs, load_neurons(study.root))
    assert [one.visit for one in found] == [1, 2, 3, 4] and {one.neuron for one in found} == {4}
    assert [short_name(one.task) for one in found[:2]] == ["window-open", "window-close"]


def test_histograms_that_a_file_lacks_are_a_note(study):
    run = study.run(neurons=True, arm="nbsp")
    path = run / "neurons" / "visit_01.npz"
    arrays = dict(np.load(path))
    np.savez(path, **{name: array for name, array in arrays.items() if "hist_" not in name})
    notes: list[str] = []
    found = top_activations(load_results(study.root).runs, load_neurons(study.root), notes=notes)
    assert [one.visit for one in found] == [2, 3, 4] and len(notes) == 1 and "visit_01.npz" in notes[0]


def test_a_proportion_is_drawn_of_the_arms_that_differ_in_it_alone(study):
    from analysis.pictures import proportions

    for frac in (0.0, 0.2, 0.5):
        study.run(arm=f"nbsp_{frac}", method="nbsp", config={"method_settings": {"skill_frac": frac}})
    study.run(arm="other", method="nbsp", config={"method_settings": {"skill_frac": 0.9, "score": "random"}})
    found = find(study.root, compare=False, protocol="nbsp-visits")
    assert proportions(found.results, found.values, "pair")["x"].tolist() == [0.0, 0.2, 0.5]
    assert "proportion_pair" in {picture.name for picture in pictures(sequences(found) + plasticity(found))}


def test_a_proportion_needs_three_points():
    points = pd.DataFrame({"x": [0.1, 0.1, 0.5], "asr": [0.2, 0.4, 0.9], "fm": 0.0, "fwt": 1.0})
    points["protocol"] = "nbsp-visits"
    ax = Figure().subplots()
    figures.metric_over_proportion(ax, points, "asr", figures.arm_styles(["nbsp"])["nbsp"])
    means = next(line for line in ax.get_lines() if line.get_marker() == "s")
    assert means.get_ydata().tolist() == [pytest.approx(0.3), 0.9]


def test_a_game_has_a_picture_and_a_suite_without_one_says_so():
    pixels = figures.task_pixels("atari", "Pong")
    assert pixels.ndim == 3 and pixels.shape[-1] == 3 and pixels.std() > 0
    with pytest.raises(MissingToolError, match="no picture of left: the suite point_mass has none"):
        figures.task_pixels("point_mass", "left")
    with pytest.raises(MissingToolError, match=r"no picture of Nothing-v0: .*Nothing"):
        figures.task_pixels("gymnasium", "Nothing-v0")
    assert figures.tasks_figure({"Pong": pixels}).axes
