"""The comparison with EnvPool: names, and places found in a first observation; EnvPool itself is no dependency."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE

from benchmarks.envpool import GOAL, OBJECT, TASKS, envpool_name, main, placed


def test_names_are_envpools() -> None:
    assert envpool_name("button-press-topdown-v3") == "MetaWorld/ButtonPressTopdown-v3"


@pytest.mark.parametrize("task", ["button-press-v3", "drawer-close-v3", "handle-press-v3", "plate-slide-v3"])
def test_an_environment_is_put_where_another_one_is(task: str) -> None:
    assert task in TASKS
    make: Any = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-goal-observable"]
    there, here = make(seed=3), make(seed=0)
    there._freeze_rand_vec = False
    first, _ = there.reset()
    off = np.abs(placed(here, first) - first)
    # Meta-World's hand begins where the resets before have left it, by tenths of a millimetre.
    assert max(off[OBJECT].max(), off[GOAL].max()) < 1e-9 and off.max() < 1e-3


def test_without_envpool_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    assert main([]) == 4
    assert "`pip install envpool` has it" in capsys.readouterr().err
