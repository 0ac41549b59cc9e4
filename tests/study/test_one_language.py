"""A YAML file and Python say the same of the same mistake."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rllib_nbsp import ContinualSACConfig
from rllib_nbsp.settings import ConfigError, ReplaySettings, TrainingSettings, VisitSettings
from tests.study.conftest import STUDY, Load, problems_of

SECTIONS = {"replay": ReplaySettings, "visit": VisitSettings, "training": TrainingSettings}
KEYS = [(section, key) for section, model in SECTIONS.items() for key in model.model_fields] + [
    ("replay", "capcity"),
    ("visit", "max_steps"),
]
NUMBERS = st.integers(-3, 3) | st.floats(allow_nan=False)
VALUES = st.none() | st.booleans() | NUMBERS | st.text("ab1e", max_size=4)


def in_python(sections: dict[str, dict[str, Any]], method: dict[str, Any]) -> list[str]:
    """What the fluent configuration says."""
    config = ContinualSACConfig().method("nbsp", **method)
    config.curriculum(suite="point_mass", tasks=["reach-left", "reach-right"])
    config.visit(**STUDY["visit"]).replay(**STUDY["replay"])
    config.given = {**config.given, **sections}
    try:
        config.validate()
    except ConfigError as error:
        return error.problems
    return []


def in_yaml(load: Load, content: dict[str, Any]) -> list[str]:
    """What the reader says, without the places."""
    try:
        load(content)
    except ConfigError:
        return [re.sub(r"^study\.yaml:\d+: ", "", line) for line in problems_of(load, content)]
    return []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.sampled_from(KEYS), VALUES)
def test_a_wrong_value_of_a_section_is_told_in_the_same_words(load: Load, where: tuple[str, str], value: Any) -> None:
    section, key = where
    own = {**STUDY.get(section, {}), key: value}
    only = {"arms": {"nbsp": {"method": "nbsp"}}, "seeds": [0]}
    of_arm = [line.removeprefix("arms.nbsp: ") for line in in_yaml(load, {section: own, **only})]
    assert sorted(of_arm) == sorted(in_python({section: own}, {}))


@pytest.mark.parametrize("key", ["skill_frac", "mask_alpha", "score", "with_replay"])
@pytest.mark.parametrize("value", [-1, "x", None, [], {"a": 1}, 1e9])
def test_a_wrong_value_of_a_method_is_told_in_the_same_words(load: Load, key: str, value: Any) -> None:
    yaml = in_yaml(load, {"arms": {"nbsp": {"method": "nbsp", key: value}}})
    assert yaml
    assert [line.removeprefix("arms.nbsp.") for line in yaml] == in_python({}, {key: value})
