"""The examples, run as a user runs them: copied to a folder of their own, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TIMEOUT_S = 560
SHORT = ("--set", "visit={max_env_steps: 300, warmup_env_steps: 100, early_stop: null}")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S + 20)]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder that has the examples and nothing else."""
    return Path(shutil.copytree(EXAMPLES, tmp_path / "own", ignore=shutil.ignore_patterns("__pycache__")))


def run(folder: Path, *command: str | Path, path: Path | None = None) -> str:
    """What a Python command prints in a folder, which must end well; `path` is on PYTHONPATH beside this package."""
    search = os.pathsep.join(str(p) for p in (ROOT, path, os.environ.get("PYTHONPATH")) if p)
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def study(folder: Path, name: str, *arguments: str) -> dict[str, list[dict[str, Any]]]:
    """Run a study from beside its folder; the rows of evaluation by arm."""
    run(folder.parent, ROOT / "run_tune.py", folder / f"{name}.yaml", "--results-dir", "results", *SHORT, *arguments)
    return {
        path.parts[-3]: [json.loads(line) for line in path.read_text().splitlines()]
        for path in (folder.parent / "results" / name).glob("*/*/seed_0/evaluations.jsonl")
    }


@pytest.mark.parametrize("name", ["own_method", "own_suite"])
def test_a_script_runs_its_own_method_or_suite_with_a_remote_worker(name: str, own: Path) -> None:
    printed = run(own, f"{name}.py")
    visits = [int(line[0]) for line in printed.splitlines() if re.match(r"[1-4] (reach|mark)-", line)]
    assert sorted(set(visits)) == [1, 2, 3, 4]


def test_a_callback_sees_every_visit(own: Path) -> None:
    printed = run(own, "own_callback.py")
    moved = re.findall(r"visit (\d), reach-\w+: policy.hidden.0.weight ([\d.]+)", printed)
    assert [int(number) for number, _ in moved] == [1, 2, 3, 4]
    assert all(float(drift) > 0.0 for _, drift in moved)


@pytest.mark.parametrize(("name", "arms"), [("own_method", ["mas", "sac"]), ("own_suite", ["sac", "slippery"])])
def test_a_study_runs_with_what_stands_beside_its_file(name: str, arms: list[str], own: Path) -> None:
    rows = study(own, name, "--arms", *arms)
    assert sorted(rows) == arms
    assert all([row["visit"] for row in own_rows] == [1, 1, 2, 2, 3, 3, 4, 4] for own_rows in rows.values())


def test_a_method_from_outside_keeps_the_contract_of_ours() -> None:
    chosen = ("-k", "mas-continuous or mas-discrete or (mas and not mask)")
    printed = run(
        ROOT, "-m", "pytest", "-q", "-p", "own_method", "tests/methods/test_contract.py", *chosen, path=EXAMPLES
    )
    [passed] = re.findall(r"^(\d+) passed", printed, re.MULTILINE)
    assert int(passed) >= 17


@pytest.mark.parametrize("options", [[], ["--optuna"]], ids=["asha", "optuna"])
def test_a_search_for_retention_tells_the_best_share_of_skill_neurons(options: list[str], own: Path) -> None:
    printed = run(own, "own_tune.py", "--samples", "2", *options)
    samples = re.findall(r"^skill_frac (0\.\d+): visit (\d), .*'reach-right': \d", printed, re.MULTILINE)
    assert len({share for share, _ in samples}) == 2
    # Without a scheduler all go to their ends; with ASHA the better one does, and the other has made two visits.
    visits = sorted(int(visit) for _, visit in samples)
    assert visits == [4, 4] if options else visits[0] >= 2
    [best] = re.findall(r"^best: skill_frac (0\.\d+)$", printed, re.MULTILINE)
    assert best in {share for share, _ in samples}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two raylets that stand in a folder with nothing in it; rollout workers have room on the second one alone."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1, resources={"rollout": 1})
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def test_a_method_from_a_users_file_goes_to_the_nodes_of_a_cluster(own: Path, cluster: Cluster) -> None:
    pinned = ("--set", "resources.custom_resources_per_env_runner={rollout: 1}")
    rows = study(own, "own_method", "--arms", "mas", "--address", cluster.address, *pinned)
    assert [row["visit"] for row in rows["mas"]] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert {row["method"] for row in rows["mas"]} == {"mas"}


SCRIPT = """
import ray, own_method, rllib_nbsp
ray.init(address="{address}", runtime_env=rllib_nbsp.runtime_env("own_method"), log_to_driver=False)
config = own_method.config().curriculum(visit_env_steps=400).visit(warmup_env_steps=100)
config.custom_resources_per_env_runner = {{"rollout": 1}}
algo = config.build_algo()
while not algo.train()["done"]:
    pass
print("done after", algo.env_steps)
"""


def test_a_script_takes_its_method_to_the_nodes_of_a_cluster(own: Path, cluster: Cluster) -> None:
    script = own.parent / "scripts" / "drive.py"
    script.parent.mkdir()
    script.write_text(SCRIPT.format(address=cluster.address))
    assert "done after 1600" in run(script.parent, script, path=own)


def test_what_a_users_file_needs_and_a_node_lacks_is_told_in_one_line(own: Path, cluster: Cluster) -> None:
    (own / "beside.py").write_text("")
    text = (own / "own_method.py").read_text()
    (own / "own_method.py").write_text(text.replace("import torch\n", "import beside\nimport torch\n", 1))
    with pytest.raises(AssertionError) as caught:
        study(own, "own_method", "--arms", "mas", "--address", cluster.address)
    errors = [line for line in str(caught.value).splitlines() if "error: " in line]
    assert len(errors) == 2  # a line for each of two nodes
    assert all(
        "plugin 'own_method' fails at its import" in line and "No module named 'beside'" in line for line in errors
    )
    assert study(
        own, "own_method", "--arms", "mas", "--address", cluster.address, "--set", "plugins=[beside, own_method]"
    )
