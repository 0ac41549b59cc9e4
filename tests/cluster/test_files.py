"""The files of `cluster/`: Ray, KubeRay and Kubernetes take them, and they agree with each other and the package."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

import rllib_nbsp
from rllib_nbsp.plugins import runtime_env
from rllib_nbsp.study.plan import make_plan
from rllib_nbsp.study.reader import load_study
from tests.cluster.kuberay import RAY_JOB, check_fields

CLUSTER = Path("cluster")
PAGE = Path("docs/many_machines.md")
DOCUMENTS = {
    document["kind"]: document for document in yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text(encoding="utf-8"))
}
JOB = DOCUMENTS["RayJob"]["spec"]
HEAD = JOB["rayClusterSpec"]["headGroupSpec"]
(WORKERS,) = JOB["rayClusterSpec"]["workerGroupSpecs"]
PODS = [HEAD["template"], WORKERS["template"]]
COMMAND = re.compile(r"rllib-nbsp run (?:\S*/)?my_pair\.yaml --results-dir \S+ --address auto")


def launcher() -> dict[str, Any]:
    """`ray_cluster.yaml`."""
    return yaml.safe_load((CLUSTER / "ray_cluster.yaml").read_text(encoding="utf-8"))


def on_one_line(path: Path) -> str:
    """A file's text, with folded lines and comments unfolded."""
    return re.sub(r"\\?\n[ #]*", " ", path.read_text(encoding="utf-8"))


# What takes them


def test_rays_cluster_launcher_takes_its_file() -> None:
    complete = prepare_config(launcher())
    validate_config(complete)
    # Ray's own commands would stand here, and they open the dashboard to the network.
    assert complete["head_start_ray_commands"] == launcher()["head_start_ray_commands"]


def test_rays_cluster_launcher_refuses_a_key_that_it_does_not_know() -> None:
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(launcher() | {"idle_timeout": 10}))


def test_kuberay_knows_every_field_of_the_job() -> None:
    assert DOCUMENTS["RayJob"]["apiVersion"] == "ray.io/v1"
    assert check_fields(JOB, RAY_JOB) == []
    assert check_fields(JOB | {"entryPoint": ""}, RAY_JOB) == ["entryPoint"]
    misspelt = {"rayClusterSpec": {"headGroupSpec": {}, "workerGroupSpecs": [{}, {"maxReplica": 1}]}}
    assert check_fields(misspelt, RAY_JOB) == ["rayClusterSpec.workerGroupSpecs.maxReplica"]


def kubernetes_objects() -> Iterator[object]:
    """All that Kubernetes itself reads: the objects beside the job, and the pods in it."""
    for kind, document in DOCUMENTS.items():
        if kind != "RayJob":
            yield pytest.param(document, id=kind)
    for name, pod in zip(("head", "workers"), PODS, strict=True):
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": pod}
        yield pytest.param(template, id=name)


@pytest.mark.parametrize("document", [*kubernetes_objects()])
def test_kubernetes_takes_the_pods_and_what_stands_beside_them(document: dict[str, Any]) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    kubernetes.validate(document, kubernetes.latest_version(), strict=True)


def test_ray_takes_the_runtime_environment_and_the_study_adds_what_it_does_not_say() -> None:
    said = yaml.safe_load((CLUSTER / "runtime_env.yaml").read_text(encoding="utf-8"))
    taken = RuntimeEnv(**said)
    assert taken.pip_config()["packages"] == said["pip"]
    assert not {*said} & {*runtime_env(), "env_vars"}  # Ray refuses what a job and its driver both say


# Who reaches what


def test_only_the_head_stays_and_nobody_outside_reaches_a_port() -> None:
    types = launcher()["available_node_types"]
    spot = {name for name, kind in types.items() if kind["node_config"].get("InstanceMarketOptions")}
    assert spot == {*types} - {launcher()["head_node_type"]}
    for kind in types.values():
        machine = kind["node_config"]
        assert machine["SecurityGroupIds"]  # without one Ray makes its own, with port 22 open to the world
        assert machine["MetadataOptions"] == {"HttpTokens": "required"}
    start = (CLUSTER / "start.sh").read_text(encoding="utf-8")
    assert "--dashboard-host=127.0.0.1" in start and "RAY_AUTH_MODE=token" in start and "umask 077" in start
    assert "0.0.0.0" not in on_one_line(CLUSTER / "ray_cluster.yaml") + start


def test_the_launcher_starts_ray_by_the_script_alone() -> None:
    for role in ("head", "worker"):
        commands = [line for line in launcher()[f"{role}_start_ray_commands"] if line != "ray stop"]
        assert len(commands) == 1 and f"cluster/start.sh {role} " in commands[0] and "ray start" not in commands[0]


def test_pods_share_a_token_and_only_they_and_the_operator_reach_them() -> None:
    assert JOB["rayClusterSpec"]["authOptions"]["mode"] == "token"
    assert HEAD["serviceType"] == "ClusterIP"
    policy = DOCUMENTS["NetworkPolicy"]["spec"]
    own = policy["podSelector"]["matchLabels"]
    assert all(own.items() <= pod["metadata"]["labels"].items() for pod in PODS)
    among, operator = policy["ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": own}}]}
    assert operator["ports"] == [{"port": 8265}]
    for pod in PODS:
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert not any(c["securityContext"]["allowPrivilegeEscalation"] for c in pod["spec"]["containers"])


# Machines that go


def test_what_is_lost_is_replaced_and_has_time_to_end() -> None:
    assert JOB["backoffLimit"] > 0 and "--resume" in JOB["entrypoint"]
    assert "SPOT" in WORKERS["template"]["spec"]["nodeSelector"].values()
    assert "SPOT" not in HEAD["template"]["spec"]["nodeSelector"].values()
    for pod in PODS:
        assert pod["spec"]["restartPolicy"] == "Never"  # Ray's autoscaler asks for another pod
        assert pod["spec"]["terminationGracePeriodSeconds"] >= 60
    assert 0 < WORKERS["minReplicas"] < WORKERS["maxReplicas"]


def test_results_lie_where_all_see_them() -> None:
    assert DOCUMENTS["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    claim = DOCUMENTS["PersistentVolumeClaim"]["metadata"]["name"]
    (results,) = re.findall(r"--results-dir (\S+)", JOB["entrypoint"])
    for pod in PODS:
        (volume,) = [v for v in pod["spec"]["volumes"] if v.get("persistentVolumeClaim") == {"claimName": claim}]
        for container in pod["spec"]["containers"]:
            assert {"name": volume["name"], "mountPath": results} in container["volumeMounts"]
    mount = " ".join(launcher()["setup_commands"])  # of every machine
    assert {*re.findall(r"--results-dir (\S+)", on_one_line(CLUSTER / "runtime_env.yaml"))} == {"/mnt/results"}
    assert "mount -t nfs4" in mount and ":/ /mnt/results" in mount


# The same everywhere


def test_a_study_is_run_by_one_command_everywhere() -> None:
    (entrypoint,) = COMMAND.findall(JOB["entrypoint"])
    (study,) = DOCUMENTS["ConfigMap"]["data"]
    assert f"/study/{study} " in entrypoint
    said = {path.name: COMMAND.findall(on_one_line(path)) for path in (PAGE, *CLUSTER.iterdir())}
    assert len(said[PAGE.name]) >= 2 and said["runtime_env.yaml"] and said["rayjob.yaml"]
    assert all(on_one_line(path).count("rllib-nbsp run") == len(said[path.name]) for path in CLUSTER.iterdir())


def test_versions_are_those_of_the_package() -> None:
    pins = {
        pin.name: pin
        for line in Path("requirements.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
        for pin in [Requirement(line)]
    }
    (ray,) = (specifier.version for specifier in pins["ray"].specifier)
    text, page = "\n".join(p.read_text(encoding="utf-8") for p in CLUSTER.iterdir()), PAGE.read_text(encoding="utf-8")
    assert {*re.findall(r"ray(?:\[default\]==|:)(\d[\d.]+)", text)} == {ray} == {JOB["rayClusterSpec"]["rayVersion"]}
    assert {*re.findall(r"rllib-nbsp:(\S+)", text + page)} == {rllib_nbsp.__version__}
    assert len({*re.findall(r"boto3==(\S+)", text + page)}) == 1
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((major, minor),) = re.findall(r"-py(\d)(\d+)", text)
    assert SpecifierSet(project["requires-python"]).contains(f"{major}.{minor}.0")


def test_the_image_is_made_of_what_a_checkout_has() -> None:
    copied = re.findall(r"^COPY \S+ (.+) \S+$", (CLUSTER / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    paths = [Path(path) for line in copied for path in line.split()]
    assert [path for path in paths if not path.exists()] == []
    tool = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]
    wheel = tool["hatch"]["build"]["targets"]["wheel"]
    assert {*wheel["packages"], *wheel["force-include"]} <= {str(path) for path in paths}


@pytest.mark.parametrize("name", ["ray_cluster.yaml", "rayjob.yaml"])
def test_what_is_the_users_to_put_in_is_said_at_the_top(name: str) -> None:
    lines = (CLUSTER / name).read_text(encoding="utf-8").splitlines()
    values = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    blanks = {*re.findall(r"(?<![\w$/\"])[A-Z]{4,}(?:_[A-Z]+)*(?![\w:()])", values)} - {"SPOT", "PATH"}
    top = " ".join(line.lstrip("# ") for line in lines[: lines.index(next(x for x in lines if x[:1] != "#"))])
    assert blanks and all(f"{blank}, " in top.partition("Yours to put in: ")[2] for blank in blanks)


# A study has room


def machines(**raised: int) -> list[dict[str, float]]:
    """What each machine of the launcher's cluster has when nobody has asked for anything yet."""
    types = launcher()["available_node_types"]
    at_first = {name: raised.get(name, kind.get("min_workers", 1)) for name, kind in types.items()}
    return [types[name]["resources"] for name, count in at_first.items() for _ in range(count)]


def study_file(folder: Path) -> Path:
    """The job's study."""
    ((name, text),) = DOCUMENTS["ConfigMap"]["data"].items()
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_jobs_study_has_room_on_both_clusters_from_the_start(tmp_path: Path) -> None:
    plan = make_plan(load_study(study_file(tmp_path)).trials(), True, None, tmp_path)
    assert plan.problems == []
    params = WORKERS["rayStartParams"]
    pods = [
        {"CPU": float(HEAD["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])},
        {"CPU": float(params["num-cpus"])} | yaml.safe_load(shlex.split(params["resources"])[0]),
    ]
    for nodes in (pods, machines()):
        assert plan.on(nodes, "it").problems == []
    assert plan.on(machines(rollout=0), "it").problems != []


def test_a_learner_has_room_on_a_spot_gpu(tmp_path: Path) -> None:
    overrides = ("resources.num_learners=1", "resources.num_gpus_per_learner=1.0")
    plan = make_plan(load_study(study_file(tmp_path), overrides).trials(), True, None, tmp_path)
    assert plan.on(machines(learner=1), "it").problems == []
    assert plan.on(machines(), "it").problems != []
