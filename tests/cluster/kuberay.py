"""The fields of KubeRay's `ray.io/v1` objects, as its API reference of version 1.6 names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, "Fields | None"]
"""The fields of an object; `None` where they are Kubernetes' own or free."""

AUTOSCALER: Fields = dict.fromkeys(
    ("resources", "image", "imagePullPolicy", "securityContext", "idleTimeoutSeconds", "upscalingMode", "version",
     "env", "envFrom", "volumeMounts")
)  # fmt: skip
HEAD_GROUP: Fields = dict.fromkeys(
    ("template", "headService", "enableIngress", "resources", "labels", "rayStartParams", "serviceType")
)
WORKER_GROUP: Fields = dict.fromkeys(
    ("suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "resources", "labels",
     "rayStartParams", "template", "scaleStrategy", "numOfHosts")
)  # fmt: skip
RAY_CLUSTER: Fields = {
    **dict.fromkeys(
        ("suspend", "managedBy", "headServiceAnnotations", "enableInTreeAutoscaling", "gcsFaultToleranceOptions",
         "rayVersion", "upgradeStrategy")
    ),
    "authOptions": dict.fromkeys(("mode", "secretName", "enableK8sTokenAuth")),
    "autoscalerOptions": AUTOSCALER,
    "headGroupSpec": HEAD_GROUP,
    "workerGroupSpecs": WORKER_GROUP,
}  # fmt: skip
RAY_JOB: Fields = {
    **dict.fromkeys(
        ("activeDeadlineSeconds", "preRunningDeadlineSeconds", "backoffLimit", "submitterPodTemplate", "metadata",
         "clusterSelector", "submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML", "jobId",
         "submissionMode", "entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished",
         "shutdownAfterJobFinishes", "suspend")
    ),
    "rayClusterSpec": RAY_CLUSTER,
}  # fmt: skip


def check_fields(given: Any, fields: Fields, place: str = "") -> list[str]:
    """The places of all fields that KubeRay does not know and would drop without a word."""
    unknown = []
    for item in given if isinstance(given, list) else [given]:
        for name, value in item.items():
            if name not in fields:
                unknown.append(place + name)
            elif (inner := fields[name]) is not None:
                unknown += check_fields(value, inner, f"{place}{name}.")
    return unknown
