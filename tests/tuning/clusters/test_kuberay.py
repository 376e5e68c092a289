"""The Kubernetes files: fields that exist, equal versions, nothing open, no secret written down.

KubeRay's own schema comes in no package of PyPI, npm or Debian. So Ray's parser of the custom
resource reads them, the fields of ``ray.io/v1`` are listed here (KubeRay 1.5.1), and everything
that is plain Kubernetes, pods in the first place, is held against Kubernetes' own schemas.
"""

from __future__ import annotations

import copy
import re
import tomllib
from importlib.metadata import version
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from helpers import ROOT
from packaging.requirements import Requirement
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr as autoscaling_config,
)

FOLDER = ROOT / "clusters" / "kuberay"
DOCUMENTS = [
    document
    for name in ("raycluster.yaml", "rayjob.yaml")
    for document in yaml.safe_load_all((FOLDER / name).read_text())
]
BY_KIND = {
    kind: [document for document in DOCUMENTS if document["kind"] == kind]
    for kind in {document["kind"] for document in DOCUMENTS}
}
[CLUSTER], [JOB] = BY_KIND["RayCluster"], BY_KIND["RayJob"]
ROOT = FOLDER.parent.parent
PYTHON = yaml.safe_load((ROOT / "cluster.yaml").read_text())["setup_commands"][0].split()[-1]
KUBERNETES = "1.31"  # the oldest whose pods are checked
POD_TEMPLATE = {"type": "object"}  # checked as a pod


def fields(required: str = "", /, **properties: dict) -> dict:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


TEXT, YES_NO, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}
GROUP = {"rayStartParams": TEXTS, "template": POD_TEMPLATE, "resources": TEXTS, "labels": TEXTS}
RAY_CLUSTER_SPEC = fields(
    "headGroupSpec",
    rayVersion=TEXT,
    authOptions=fields(mode={"enum": ["token", "disabled"]}),
    enableInTreeAutoscaling=YES_NO,
    autoscalerOptions=fields(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        resources=fields(requests=TEXTS, limits=TEXTS),
    ),
    suspend=YES_NO,
    headServiceAnnotations=TEXTS,
    headGroupSpec=fields(
        "rayStartParams template", serviceType=TEXT, enableIngress=YES_NO, **GROUP
    ),
    workerGroupSpecs={
        "type": "array",
        "items": fields(
            "groupName minReplicas maxReplicas rayStartParams template",
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            numOfHosts=COUNT,
            idleTimeoutSeconds=COUNT,
            **GROUP,
        ),
    },
)
RAY_JOB_SPEC = fields(
    entrypoint=TEXT,
    clusterSelector=TEXTS,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterConfig=fields(backoffLimit=COUNT),
    submitterPodTemplate=POD_TEMPLATE,
    runtimeEnvYAML=TEXT,
    metadata=TEXTS,
    jobId=TEXT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=TEXT,
    suspend=YES_NO,
)
SPECS = {"RayCluster": RAY_CLUSTER_SPEC, "RayJob": RAY_JOB_SPEC}


def templates_of(document: dict) -> list[dict]:
    """The pods that a document describes."""
    spec = document["spec"]
    match document["kind"]:
        case "RayCluster":
            return [g["template"] for g in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
        case "RayJob":
            return [spec["submitterPodTemplate"]]
        case "Deployment":
            return [spec["template"]]
    return []


def check(document: dict) -> None:
    """Raise a ValidationError where a field is missing, unknown or of another type."""
    if spec := SPECS.get(document["kind"]):
        jsonschema.validate(document["spec"], spec)
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    for template in templates_of(document):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def pod_specs() -> list[dict]:
    specs = [template["spec"] for document in DOCUMENTS for template in templates_of(document)]
    assert len(specs) == 4  # head, worker, MLflow, and who submits
    return specs


def containers() -> list[dict]:
    return [c for pod in pod_specs() for c in pod.get("initContainers", []) + pod["containers"]]


def keys_below(value: Any) -> set[str]:
    """Every key anywhere in a document."""
    if isinstance(value, dict):
        return value.keys() | {key for below in value.values() for key in keys_below(below)}
    if isinstance(value, list):
        return {key for below in value for key in keys_below(below)}
    return set()


@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda d: f"{d['kind']}/{d['metadata']['name']}"
)
def test_every_field_exists(document):
    check(document)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("RayCluster", "spec authOption"),
        ("RayCluster", "spec workerGroupSpecs 0 maxReplica"),
        ("RayCluster", "spec headGroupSpec template spec containers 0 ressources"),
        ("RayCluster", "spec workerGroupSpecs 0 template spec containers 0 command"),
        ("RayJob", "spec entryPoint"),
        ("RayJob", "spec submitterPodTemplate spec container"),
        ("Deployment", "spec template spec volumes 0 emptyDirs"),
        ("NetworkPolicy", "spec ingress 0 form"),
    ],
)
def test_a_wrong_field_is_found(kind, path):
    document = copy.deepcopy(BY_KIND[kind][0])
    *above, last = path.split()
    place = document
    for step in above:
        place = place[int(step) if step.isdigit() else step]
    place[last] = "x"
    with pytest.raises(jsonschema.ValidationError):
        check(document)


def test_ray_reads_it_as_a_cluster_that_scales_to_zero():
    cluster = copy.deepcopy(CLUSTER)
    cluster["metadata"]["namespace"] = "default"  # as Kubernetes fills it in
    config = autoscaling_config(cluster)
    assert config["idle_timeout_minutes"] == 10
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["headgroup"]["max_workers"] == 0
    assert (types["gpu"]["min_workers"], types["gpu"]["max_workers"]) == (0, 4)
    assert types["gpu"]["resources"] == {"CPU": 4, "GPU": 1, "memory": 16 * 2**30}
    assert CLUSTER["spec"]["enableInTreeAutoscaling"] is True


def test_versions_are_equal_and_those_that_the_project_has():
    ray_version = version("ray")
    assert CLUSTER["spec"]["rayVersion"] == ray_version
    images = {container["image"] for container in containers()}
    python = PYTHON.replace(".", "")
    assert images == {f"rayproject/ray:{ray_version}-py{python}", f"python:{PYTHON}-slim"}
    text = (FOLDER / "raycluster.yaml").read_text()
    assert f"/*.whl ray=={ray_version}" in text
    [mlflow_version] = re.findall(r"mlflow\[auth\]==([\d.]+)", text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    assert mlflow_version in wanted["mlflow"]
    assert f"/opt/thaw/lib/python{PYTHON}/site-packages" in text


def test_requests_and_limits_agree():
    for container in containers():
        resources = container["resources"]
        assert resources["requests"].keys() == resources["limits"].keys(), container["name"]
        for name, asked in resources["requests"].items():
            if name != "cpu":  # a little more CPU, for a while, hurts nobody
                assert asked == resources["limits"][name], (container["name"], name)
    [gpu] = CLUSTER["spec"]["workerGroupSpecs"]
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_nothing_is_open_outside_of_the_cluster():
    assert CLUSTER["spec"]["authOptions"] == {"mode": "token"}
    assert CLUSTER["spec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert [service["spec"]["type"] for service in BY_KIND["Service"]] == ["ClusterIP"]
    names = keys_below(DOCUMENTS)
    assert not names & {"hostNetwork", "hostPort", "hostPath", "nodePort", "privileged"}
    assert not names & {"enableIngress", "loadBalancerIP", "externalIPs"}
    assert "Ingress" not in BY_KIND
    [policy] = BY_KIND["NetworkPolicy"]
    assert policy["spec"]["podSelector"] == {}
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert {"podSelector": {}} in policy["spec"]["ingress"][0]["from"]
    for container in containers():
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, container["name"]
    for pod in pod_specs():
        assert pod["securityContext"]["runAsUser"] == 1000


def test_no_secret_is_written_down():
    assert "Secret" not in BY_KIND
    variables = [v for container in containers() for v in container.get("env", [])]
    secret = [v for v in variables if re.search(r"TOKEN$|PASSWORD|SECRET|_KEY$", v["name"])]
    assert len(secret) == 4  # MLflow's for head and workers; the server's own, and its cookies' key
    for variable in secret:
        assert variable.keys() == {"name", "valueFrom"}, variable["name"]
        assert variable["valueFrom"]["secretKeyRef"]["name"] == "thaw-mlflow"


def test_volumes_claims_and_selectors_fit_together():
    claims = {claim["metadata"]["name"] for claim in BY_KIND["PersistentVolumeClaim"]}
    used = set()
    for pod in pod_specs():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for container in pod.get("initContainers", []) + pod["containers"]:
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= volumes.keys(), container["name"]
        used |= {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in volumes.values()
            if "persistentVolumeClaim" in volume
        }
    assert used == claims
    [deployment], [service] = BY_KIND["Deployment"], BY_KIND["Service"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    uris = {
        variable["value"]
        for container in containers()
        for variable in container.get("env", [])
        if variable["name"] == "MLFLOW_TRACKING_URI"
    }
    [port] = service["spec"]["ports"]
    assert uris == {f"http://{service['metadata']['name']}:{port['port']}"}


def test_the_job_says_a_valid_command_to_the_cluster(thaw, tmp_path):
    assert JOB["spec"]["clusterSelector"] == {"ray.io/cluster": CLUSTER["metadata"]["name"]}
    program, *arguments = JOB["spec"]["entrypoint"].split()
    assert program == "/opt/thaw/bin/thaw"
    mounts = CLUSTER["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert arguments[arguments.index("--sweeps-folder") + 1] in {m["mountPath"] for m in mounts}
    arguments[arguments.index("/sweeps")] = str(tmp_path / "sweeps")
    code, _, err = thaw(*arguments, "--dry-run")
    assert code == 0, err
