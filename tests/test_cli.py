"""The command `rllib-nbsp`: what each of its words does, and that its keys are those of the settings."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from rllib_nbsp.cli import main
from rllib_nbsp.methods import METHODS
from rllib_nbsp.settings import ConfigError, TrainingSettings
from rllib_nbsp.study.keys import groups, json_schema
from rllib_nbsp.study.presets import presets, study_file
from rllib_nbsp.study.reader import load_study
from tests.studies import TINY, write_config

SCHEMA = json_schema()


def test_every_key_has_its_values_default_and_meaning(capsys):
    assert main(["keys"]) == 0
    printed = capsys.readouterr().out
    for name, field in TrainingSettings.model_fields.items():
        assert f"training.{name}" in printed, name
        assert field.is_required() is False
    named = {group.name for group in groups() if group.kind == "method"}
    assert {name for name, method in METHODS.items() if method.Config is not METHODS["sac"].Config} <= named
    every = [key for group in groups() for key in group.keys]
    assert [key.name for key in every if not (key.values and key.default and key.meaning)] == []


def test_keys_are_found_by_a_word(capsys):
    assert main(["keys", "skill_frac"]) == 0
    assert "Share of the ranked neurons" in " ".join(capsys.readouterr().out.split())
    assert main(["keys", "no_such_key"]) == 2


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_valid_by_the_json_schema(name: str):
    jsonschema.validate(yaml.safe_load(presets()[name].read_text()), SCHEMA)


@pytest.mark.parametrize(
    "change",
    [
        {"cycles": 0},
        {"visit": {"max_env_step": 5}},
        {"arms": {"nbsp": {"method": "nbsp", "skill_frac": 2}}},
        {"arms": {"nbsp": {}}},
        {"arms": {"nbsp": {"method": "nbsp", "skill_fraction": 0.1}}},
        {"arms": {"sac": {"method": "sac", "skill_frac": 0.1}}},
        {"arms": {"sac": {"method": "sac", "training": {"gama": 0.9}}}},
        {"seeds": []},
        {"visits": {"max_env_steps": 5}},
        {"atari": {}},
    ],
)
def test_what_the_reader_refuses_the_json_schema_refuses_too(change, tmp_path):
    jsonschema.validate(TINY, SCHEMA)
    with pytest.raises(ConfigError):
        load_study(write_config(tmp_path, **change))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**TINY, **change}, SCHEMA)


@pytest.mark.parametrize(
    "change", [{"suite": "maze", "maze": {"size": 5}}, {"arms": {"own": {"method": "my_module:Mine", "strength": 2}}}]
)
def test_the_json_schema_lets_keys_of_a_plugin_through(change):
    jsonschema.validate({**TINY, **change}, SCHEMA)


def test_the_json_schema_is_printed(capsys):
    assert main(["keys", "--json-schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(SCHEMA))


def test_a_preset_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    by_path = load_study("tune_configs/fast/pendulum_pair.yaml")
    monkeypatch.chdir(tmp_path)
    for name in ("fast/pendulum_pair", "fast/pendulum_pair.yaml", "tune_configs/fast/pendulum_pair.yaml"):
        assert load_study(name).settings == by_path.settings
    Path("smoke.yaml").write_text("a file of this name counts")
    assert study_file("smoke.yaml") == Path("smoke.yaml")


def test_plan_runs_nothing(tmp_path, capsys):
    config = write_config(tmp_path)
    assert main(["plan", str(config), "--results-dir", str(tmp_path / "results")]) == 0
    assert "trials:     2" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_report_is_the_analysis_and_unknown_words_are_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nowhere")]) == 3
    assert "no results in" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["rnu"])
    assert caught.value.code == 2
