"""YAML itself: what hides a mistake or is no small text is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from rllib_nbsp.reading import MAX_STUDY_BYTES
from rllib_nbsp.settings import ConfigError
from rllib_nbsp.study.reader import load_study
from rllib_nbsp.study.yaml_tree import read_yaml
from tests.study.conftest import STUDY, Load, problems_of


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("experiment: x\n\tsuite: y\n", "study.yaml:2: not valid YAML: "),
        ("experiment: [x\n", "not valid YAML"),
        ("cycles: 2\nsuite: x\ncycles: 3\n", "study.yaml:3: key 'cycles' is given twice; first at line 1"),
        ("suite: !!python/object/apply:os.system [exit]\n", "study.yaml:1: tag tag:yaml.org,2002:python/object"),
        ("suite: !!binary aGk=\n", "tag tag:yaml.org,2002:binary is not allowed"),
        ("yes: 1\n", "study.yaml:1: key 'yes' is not text; put it in quotes"),
        ("? [a, b]\n: 1\n", "key a list or mapping is not text"),
        ("[1, 2]\n", "a mapping of keys to values is needed, got list"),
        ("a: " + "[" * 3000, "more than 20 levels"),
        ("a: " + "[" * 30 + "]" * 30, "more than 20 levels"),
        ("a: &a [*a]\n", "more than 20 levels"),
        ("cycles: " + "9" * 5000, "longer than 40 characters"),
        ("a: 1\n--- \nb: 2\n", "not valid YAML"),
        ("a: \x07\n", "not valid YAML"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_yaml_that_hides_a_mistake_is_refused(load: Load, text: str, said: str) -> None:
    assert said in problems_of(load, text)[0]


def test_an_alias_bomb_is_refused(load: Load) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
    assert "more than 10000 values" in problems_of(load, bomb)[0]


def test_a_file_that_is_no_small_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_text("#" * (MAX_STUDY_BYTES + 1))
    (tmp_path / "binary.yaml").write_bytes(b"experiment: \xff\xfe")
    for name, said in (("big.yaml", "at most 1000000"), ("binary.yaml", "byte 12 is not UTF-8"), (".", "directory")):
        with pytest.raises(ConfigError, match=said) as caught:
            load_study(tmp_path / name)
        assert str(caught.value).count(str(tmp_path)) == 1


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    text = yaml.safe_dump(STUDY, sort_keys=False).replace("\n", "\r\n")
    (tmp_path / "windows.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_study(tmp_path / "windows.yaml").settings.experiment == "pair"


@given(
    st.from_regex(r"[-+]?[0-9]{1,5}(:[0-9]{1,2}){0,2}(\.[0-9]{1,2})?", fullmatch=True)
    | st.from_regex(r"0[0-9_]{1,4}", fullmatch=True)
)
@example("1:30")
@example("010")
@example("08")
def test_a_number_is_what_it_looks_like_or_refused(text: str) -> None:
    try:
        value = read_yaml(f"x: {text}", "file").data["x"]
    except ConfigError as error:
        (line,) = error.problems
        assert line.startswith(f"file:1: {text!r} is not a value: YAML reads it as ")
        return
    assert value == text or value == float(text.replace("_", ""))


@pytest.mark.parametrize("key", ["trainig.batch_size", "training.bach_size", "trainig.a.b"])
def test_a_mistake_in_an_override_is_laid_at_its_door(key: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    with pytest.raises(ConfigError) as caught:
        load_study(str(path), [f"{key}=3"])
    assert [line.partition(": ")[0] for line in caught.value.problems] == [f"--set {key}=3"]
