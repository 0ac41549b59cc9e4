"""A user's own modules: known by name in every process, or refused in one line before anything starts."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rllib_nbsp import ContinualSACConfig, register_method, runtime_env
from rllib_nbsp.methods import METHODS, ContinualMethod
from rllib_nbsp.methods.base import MethodSettings
from rllib_nbsp.plugins import PluginError, import_plugin, sources
from rllib_nbsp.run import ResolvedRun, run_settings
from rllib_nbsp.settings import ConfigError, config_hash
from rllib_nbsp.study.reader import load_study
from tests.studies import TINY
from tests.tiny import build_config

METHOD = """
from rllib_nbsp import register_method
from rllib_nbsp.methods import ContinualMethod, MethodSettings

class Keys(MethodSettings):
    rate: float = 0.5

class Mine(ContinualMethod):
    Config = Keys
"""
SUITE = """
from rllib_nbsp import register_suite
from rllib_nbsp.envs.point_mass import PointMassSuite
from rllib_nbsp.settings import Settings

class Keys(Settings):
    size: int = 1

class Mine(PointMassSuite):
    name = "{name}"
    Config = Keys

    def configured(self, settings):
        made = Mine()
        made.size = settings.size
        return made

    def check_section(self):
        return ["{name}.size is 13; that is unlucky"] if getattr(self, "size", 1) == 13 else []
"""
NUMBERS = itertools.count()


pytestmark = pytest.mark.usefixtures("forgotten")


@pytest.fixture
def module(tmp_path: Path) -> Callable[..., str]:
    """Writes a module beside the study and returns its name, which no other test has."""

    def write(*texts: str) -> str:
        name = f"plugin_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text("\n".join(texts))
        return name

    return write


def problems(folder: Path, **changes: Any) -> list[str]:
    """What a study with these top-level keys gets wrong, without the file's name."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(TINY | changes, sort_keys=False))
    try:
        load_study(path)
    except ConfigError as error:
        return [line.replace(f"{path}:", "") for line in error.problems]
    return []


# What works


def test_a_study_knows_what_a_module_beside_it_registers(tmp_path, module):
    name = module(METHOD, "register_method('mine', Mine)", SUITE.format(name="own"), "register_suite(Mine())")
    study = {"plugins": [name], "suite": "own", "own": {"size": 3}, "arms": {"a": {"method": "mine", "rate": 0.1}}}
    assert problems(tmp_path, **study) == []
    [run] = load_study(tmp_path / "study.yaml").trials()
    assert (run.method_settings["rate"], run.own.size) == (0.1, 3)
    assert ResolvedRun(run).modules == [name]
    assert ResolvedRun(run_settings(**run.model_dump())).suite.size == 3


def test_a_method_and_a_suite_are_also_named_by_where_they_are(tmp_path, module):
    method, suite = module(METHOD), module(SUITE.format(name="placed"))
    study = {
        "suite": f"{suite}:Mine",
        "placed": {"size": 2},
        "arms": {"a": {"method": f"{method}:Mine", "rate": 0.2, "placed": {"size": 5}}},
    }
    assert problems(tmp_path, **study) == []
    [run] = load_study(tmp_path / "study.yaml").trials()
    assert (run.method_settings["rate"], run.placed.size) == (0.2, 5)
    assert ResolvedRun(run).modules == [method, suite]
    assert f"{method}:Mine" not in METHODS


def test_a_package_is_a_plugin_and_goes_whole(tmp_path, monkeypatch):
    package = tmp_path / "own_package"
    (package / "parts").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "parts" / "__init__.py").write_text(f"{METHOD}\nregister_method('packed', Mine)")
    assert problems(tmp_path, plugins=["own_package.parts"], arms={"a": {"method": "packed"}}) == []
    assert sources(["own_package.parts", "own_package"]) == [str(package)]


def test_what_is_installed_does_not_travel_and_what_is_not_goes_with_this_package(tmp_path, module):
    sys.path.append(str(tmp_path))
    name = module("")
    assert sources(["json", "numpy", "pydantic.types", name]) == [str(tmp_path / f"{name}.py")]
    assert [Path(path).name for path in runtime_env(name)["py_modules"]] == ["rllib_nbsp", f"{name}.py"]


def test_where_names_come_from_is_no_part_of_what_a_run_computes(tmp_path, module):
    sys.path.append(str(tmp_path))
    with_plugin, without = (
        run_settings(suite="point_mass", tasks=["reach-left"], plugins=p) for p in ([module("")], [])
    )
    assert config_hash(with_plugin) == config_hash(without)


def test_python_has_the_same_names(tmp_path, module):
    sys.path.append(str(tmp_path))
    name = module(SUITE.format(name="own"), "register_suite(Mine)", METHOD, "register_method('mine', Mine)")
    config = ContinualSACConfig().plugins(name).suite("own", size=4).method("mine", rate=0.3)
    run = config.curriculum(tasks=["reach-left"]).settings
    assert (run.plugins, run.own.size, run.method_settings) == ([name], 4, {"rate": 0.3})
    placed = build_config().method(f"{name}:Mine", rate=0.3)
    placed.validate()
    assert placed.resolved().method.__name__ == "Mine"


def test_an_installed_package_names_its_own_by_entry_points(tmp_path, module, monkeypatch):
    sys.path.append(str(tmp_path))
    name = module(METHOD)
    point = EntryPoint("installed", f"{name}:Mine", "rllib_nbsp.methods")
    monkeypatch.setattr(METHODS, "installed", {"installed": [point]})
    assert "installed" in METHODS and "installed" in list(METHODS)
    assert name not in sys.modules
    assert problems(tmp_path, arms={"a": {"method": "installed", "rate": 0.1}}) == []
    assert not METHODS.is_of_this_process("installed")


def test_entry_points_are_read_from_what_is_installed(tmp_path):
    from rllib_nbsp.registry import OpenRegistry

    folder = tmp_path / "somebodys-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[rllib_nbsp.methods]\ntheirs = rllib_nbsp.methods.l2:L2Regularization\n")
    sys.path.append(str(tmp_path))
    registry: OpenRegistry[Any] = OpenRegistry("method", lambda thing: thing)
    assert registry["theirs"].__name__ == "L2Regularization"


# What does not


BROKEN = {
    "raises": ("1 / 0", "fails at its import ({name}.py, line 1): ZeroDivisionError: division by zero"),
    "exits": ("import sys\nsys.exit(3)", "exits at its import ({name}.py, line 2): SystemExit: 3"),
    "lacks a module": ("import no_such_module", "fails at its import ({name}.py, line 1): ModuleNotFoundError"),
    "is no Python": ("def", "fails at its import: SyntaxError: invalid syntax"),
    "misses a parameter": (
        f"{METHOD}\n    def on_visit_end(self, visit): ...\nregister_method('mine', Mine)",
        "on_visit_end(self, visit) must be on_visit_end(self, visit, data)",
    ),
    "wants more": (
        f"{METHOD}\n    def after_step(self, batch, more): ...\nregister_method('mine', Mine)",
        "after_step(self, batch, more) must be after_step(self, batch)",
    ),
    "asks for what a call may leave out": (
        SUITE.format(name="own") + "\n    def make_env(self, task, *, seed, training): ...\nregister_suite(Mine())",
        "make_env(self, task, *, seed, training) must be make_env(self, task, *, seed, training=True)",
    ),
    "says it in lines": ("raise ValueError('one\\ntwo')", "ValueError: one two"),
    "lacks a keyword": (
        f"{METHOD}\n    def graph_key(self): ...\nregister_method('mine', Mine)",
        "graph_key(self) must be graph_key(self, *, of_prior)",
    ),
    "declares on the object": (
        f"{METHOD}\n    def phases(self, config, visit): ...\nregister_method('mine', Mine)",
        "phases(self, config, visit) must be classmethod phases(cls, config, visit)",
    ),
    "has no importance": (
        "from rllib_nbsp import register_method\nfrom rllib_nbsp.methods.parts.consolidation import PulledMethod\n"
        "class Mine(PulledMethod): ...\nregister_method('mine', Mine)",
        "importance(self, data) is missing",
    ),
    "has other keys": (
        f"{METHOD}\n    Config = dict\nregister_method('mine', Mine)",
        "Config is <class 'dict'>; it must be a subclass of MethodSettings",
    ),
    "is no method": (
        "from rllib_nbsp import register_method\nregister_method('mine', 3)",
        "a method is a subclass of ContinualMethod, got 3",
    ),
    "takes a name of ours": (
        f"{METHOD}\nregister_method('ewc', Mine)",
        "there are two methods 'ewc', rllib_nbsp.methods.ewc:ElasticWeightConsolidation and {name}:Mine",
    ),
    "has a suite without tasks": (
        "from rllib_nbsp import register_suite\nfrom rllib_nbsp.envs import Suite\n"
        "class Mine(Suite):\n    name = 'own'\n    def task_names(self): return []\nregister_suite(Mine)",
        "make_env(self, task, *, seed, training=True) is missing; task_spaces(self, task) is missing",
    ),
    "reads no section": (
        SUITE.format(name="own").replace("def configured", "def other") + "\nregister_suite(Mine())",
        "it has a Config and no configured(self, settings), so that nothing reads its section",
    ),
    "has a section of a run's": (
        SUITE.format(name="training") + "\nregister_suite(Mine())",
        "name is 'training', and a run has a key of that name",
    ),
    "cannot be made": (
        SUITE.format(name="own") + "\n    def __init__(self): raise OSError('no file')\nregister_suite(Mine)",
        "cannot be used: OSError: no file",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_plugin_that_cannot_be_used_is_one_line_in_yaml_and_in_python(kind, tmp_path, module):
    text, said = BROKEN[kind]
    name = module(text)
    said = said.format(name=name)
    [line] = problems(tmp_path, plugins=[name], arms={"a": {"method": "mine"}}, suite="own")
    assert f"plugins[0] is '{name}': " in line and said in line and "\n" not in line
    with pytest.raises(PluginError) as caught:
        ContinualSACConfig().plugins(name)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["no_such_plugin", "no_such.plugin", "tests.no_such", "no_such_plugin.py", "", "a b"])
def test_a_plugin_that_is_not_there_is_one_line(name, tmp_path):
    [line] = problems(tmp_path, plugins=[name])
    assert f"plugins[0] is '{name}': " in line


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("no_such_plugin:Mine", "there is no module 'no_such_plugin'"),
        ("rllib_nbsp.methods.l2:L2", "'rllib_nbsp.methods.l2' has no 'L2'"),
        ("rllib_nbsp.methods.l2:L2Regularisation", "did you mean 'L2Regularization'?"),
        ("rllib_nbsp.methods.l2:L2Settings", "a method is a subclass of ContinualMethod"),
    ],
)
def test_a_reference_that_leads_nowhere_is_one_line(reference, said, tmp_path):
    [line] = problems(tmp_path, arms={"a": {"method": reference}})
    assert f"arms.a.method is '{reference}': " in line and said in line
    with pytest.raises(ValueError, match="method is") as caught:
        build_config().method("sac").update_from_dict(
            {"given": {**build_config().given, "method": reference}}
        ).validate()
    assert said in str(caught.value)


def test_two_plugins_of_one_name_are_refused(tmp_path, module):
    first, second = (module(METHOD, "register_method('mine', Mine)") for _ in range(2))
    [line] = problems(tmp_path, plugins=[first, second], arms={"a": {"method": "mine"}})
    assert f"plugins[1] is '{second}': " in line
    assert f"there are two methods 'mine', {first}:Mine and {second}:Mine: rename one of them" in line


def test_two_installed_ones_of_one_name_are_refused_where_the_name_is_used(tmp_path, module, monkeypatch):
    sys.path.append(str(tmp_path))
    points = [EntryPoint(n, f"{module(METHOD)}:Mine", "rllib_nbsp.methods") for n in ("twice", "twice", "ewc")]
    monkeypatch.setattr(METHODS, "installed", {"twice": points[:2], "ewc": points[2:]})
    for name in ("twice", "ewc"):
        [line] = problems(tmp_path, arms={"a": {"method": name}})
        assert f"there are two methods '{name}', " in line
    assert problems(tmp_path, arms={"a": {"method": "l2"}}) == []


def test_a_suite_that_takes_any_name_and_checks_none_is_refused(tmp_path, module):
    name = module(SUITE.format(name="own") + "\n    def task_names(self): return None\nregister_suite(Mine())")
    [line] = problems(tmp_path, plugins=[name], suite="own")
    assert "suite 'own' takes any name and checks none: it needs check_tasks(self, tasks)" in line
    [line] = problems(tmp_path, plugins=[name], suite="own", own={"size": 13})
    assert "own.size is 13; that is unlucky" in line


def test_the_same_module_may_be_imported_again():
    class Again(ContinualMethod):
        pass

    first = register_method("again", Again)

    class Again(ContinualMethod):  # type: ignore[no-redef]
        pass

    assert register_method("again", Again) is not first
    assert METHODS["again"] is Again


def test_a_script_and_the_module_that_it_is_to_others_are_the_same(monkeypatch, tmp_path, module):
    sys.path.append(str(tmp_path))
    name = module(METHOD, "register_method('mine', Mine)")
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=str(tmp_path / f"{name}.py")))
    register_method("mine", type("Mine", (ContinualMethod,), {"__module__": "__main__"}))
    import_plugin(name)
    assert METHODS["mine"].__module__ == name


def test_what_only_this_process_knows_is_refused_where_others_must_know_it():
    class Here(ContinualMethod):
        Config = MethodSettings

    register_method("here", Here)
    config = build_config("here")
    config.validate()
    with pytest.raises(ValueError, match=r"method 'here' is registered in this process alone.*plugins\('my_module'\)"):
        config.env_runners(num_env_runners=1).validate()


def test_ctrl_c_at_an_import_is_no_error_of_the_plugin(tmp_path, module):
    sys.path.append(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        import_plugin(module("raise KeyboardInterrupt"))


def test_the_nearest_names_are_those_of_plugins_too(tmp_path, module):
    name = module(METHOD, "register_method('memory_aware', Mine)")
    [line] = problems(tmp_path, plugins=[name], arms={"a": {"method": "memory_awar"}})
    assert "did you mean 'memory_aware'?" in line
