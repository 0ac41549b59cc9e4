"""How arms look, names that fit, and files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import arm_styles, saved
from analysis.figures.style import BASELINE_COLOUR, METHOD_COLOUR, compact, fitted, inches, legend, styled

NAMES = st.lists(st.text("abcnps_", min_size=1, max_size=6), unique=True, max_size=80)
METHODS = st.sampled_from(["sac", "nbsp", "ewc", "npc"])


@given(arms=NAMES, data=st.data())
def test_no_two_arms_have_the_same_colour_and_mark_and_two_colours_are_kept(arms, data):
    methods = {arm: data.draw(METHODS) for arm in arms}
    styles = arm_styles(arms, methods)
    assert list(styles) == arms
    assert len({(style.color, style.marker) for style in styles.values()}) == len(arms)
    for method, colour in (("sac", BASELINE_COLOUR), ("nbsp", METHOD_COLOUR)):
        of_it = [arm for arm in arms if methods[arm] == method]
        first = ["nbsp"] if method == "nbsp" and "nbsp" in of_it else of_it[:1]
        assert [arm for arm in arms if styles[arm].color == colour] == first


def test_the_baseline_and_nbsp_look_the_same_in_every_study():
    one = arm_styles(["nbsp", "sac"])
    other = arm_styles(["ewc", "plain", "npc", "ours"], {"ewc": "ewc", "plain": "sac", "npc": "npc", "ours": "nbsp"})
    assert (one["sac"], one["nbsp"]) == (other["plain"], other["ours"])
    ablated = arm_styles(["sac", "mask_only", "nbsp"], {"sac": "sac", "mask_only": "nbsp", "nbsp": "nbsp"})
    assert ablated["nbsp"] == one["nbsp"] != ablated["mask_only"]


@given(name=st.text("abcXYZ-_ $é", max_size=60), width=st.floats(0.3, 3.0), lines=st.integers(1, 3))
def test_a_name_is_never_wider_than_its_place(name, width, lines):
    shown = fitted(name, width, 8, lines=lines).split("\n")
    assert len(shown) <= lines and all(inches(line, 8) <= width for line in shown)
    if inches(name, 8) <= width:
        assert shown == [name]


def test_a_name_is_broken_at_its_hyphens_before_it_is_cut():
    assert fitted("button-press-topdown", 1.0, 8, lines=2) == "button-press-\ntopdown"
    assert fitted("button-press-topdown", 0.9, 8) == fitted("button-press-topdown", 0.9, 8).replace("\n", "")


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_the_same_figure_has_the_same_bytes_in_any_order_of_files(kind):
    def drawn():
        with_title = styled(lambda: Figure(figsize=(2, 1), layout="constrained"))()
        with_title.subplots().set_title("$a_b")
        return with_title

    again = drawn()
    saved(again, "pdf")
    assert saved(drawn(), kind) == saved(again, kind)


@given(value=st.floats(-1e12, 1e12).filter(lambda value: value == 0 or abs(value) > 1e-12))
def test_a_number_of_an_axis_is_short_and_near(value):
    rounded = float(f"{value:.2g}")
    assert float(compact(rounded)) == pytest.approx(rounded) and len(compact(rounded)) <= 8


@styled
def with_legend(names):
    fig = Figure(figsize=(6.9, 2), layout="constrained")
    fig.subplots()
    legend(fig, [Line2D([], [], label=name) for name in names])
    return fig


@given(names=st.lists(st.text("abc_", min_size=1, max_size=50), min_size=1, max_size=12))
@hypothesis_settings(max_examples=20, deadline=None)
def test_a_legend_is_no_wider_than_its_figure(names):
    fig = with_legend(names)
    saved(fig, "png")
    canvas = FigureCanvasAgg(fig)
    box = fig.legends[0].get_window_extent(canvas.get_renderer())
    assert fig.bbox.x0 - 1 <= box.x0 and box.x1 <= fig.bbox.x1 + 1


def test_one_long_name_leaves_the_others_their_columns():
    fig = with_legend([*(f"arm_{number}" for number in range(9)), "visit 1, made once: sac, ewc, mask_only, nbsp"])
    assert fig.legends[0]._ncols >= 3


def test_a_legend_of_nothing_is_none():
    fig = Figure()
    legend(fig, [])
    assert not fig.legends
