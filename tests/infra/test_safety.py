"""Least privilege: what pods may do, who reaches whom, what the nightly may create, the bucket's policy."""

import ast
import fnmatch
import json
import re

import pytest

from tests.infra.built import INFRA, NIGHTS, ROOT, STANDING, STUDIES, TARGETS, cluster_spec, manifests, only, pods
from tests.infra.rules import breaches
from tests.infra.test_schemas import at

COMPONENT = "app.kubernetes.io/component"


@pytest.mark.parametrize("target", TARGETS)
def test_no_manifest_breaks_a_rule(target):
    assert [said for manifest in manifests(target) for said in breaches(manifest)] == []


WORKER = "spec/rayClusterSpec/workerGroupSpecs/0/template/spec"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (f"{WORKER}/containers/0/resources/limits/memory", None, "gpu: ray-worker has no limits.memory"),
        (f"{WORKER}/containers/0/resources/requests", None, "ray-worker has no requests.cpu"),
        (f"{WORKER}/securityContext/runAsNonRoot", False, "may run as root"),
        (f"{WORKER}/securityContext/seccompProfile", None, "no seccomp profile"),
        (f"{WORKER}/hostNetwork", True, "hostNetwork"),
        (f"{WORKER}/containers/0/securityContext/readOnlyRootFilesystem", False, "readOnlyRootFilesystem = False"),
        (f"{WORKER}/containers/0/securityContext/capabilities", None, "capabilities = None"),
        (f"{WORKER}/containers/0/securityContext/privileged", True, "sets privileged"),
        (f"{WORKER}/volumes/0", {"name": "tmp", "hostPath": {"path": "/tmp"}}, "a folder of the node"),
        (f"{WORKER}/volumes/1/name", "scratches", "mounts scratch, which is no volume"),
        (f"{WORKER}/automountServiceAccountToken", None, "gets a token of Kubernetes' API"),
        (f"{WORKER}/containers/0/env", [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}], "has a value"),
        (f"{WORKER}/containers/0/args", ["AKIA" + "0" * 16], "looks like a key"),
        ("spec/rayClusterSpec/autoscalerOptions/resources", None, "autoscaler has no limits.cpu"),
        ("spec/rayClusterSpec/authOptions", None, "authOptions = None"),
        ("spec/submitterPodTemplate/spec/containers/0/resources", None, "submitter: ray-job-submitter has no"),
    ],
)
def test_a_planted_breach_is_found(path, value, says):
    manifest = only("overlays/cloud/study", "RayJob")
    place, last = at(manifest, path)
    if value is None:
        del place[last]
    else:
        place[last] = value
    assert any(says in said for said in breaches(manifest)), breaches(manifest)


@pytest.mark.parametrize("target", STANDING)
def test_the_nightly_may_create_rayjobs_and_nothing_else(target):
    role, binding, job = (only(target, kind) for kind in ("Role", "RoleBinding", "CronJob"))
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (pod,) = pods(job)
    account = pod.spec["serviceAccountName"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "sharelm"}]
    assert only(target, "ServiceAccount")["metadata"]["name"] == account
    kinds = {manifest["kind"] for manifest in manifests(target)}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding"}


@pytest.mark.parametrize("target", STANDING)
def test_nights_do_not_overlap_and_have_deadlines(target):
    spec = only(target, "CronJob")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] <= 6 * 3600
    assert spec["successfulJobsHistoryLimit"] in range(1, 8)
    assert spec["failedJobsHistoryLimit"] in range(1, 8)
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] <= 3600
    assert re.fullmatch(r"\d+ \d+ \* \* \*", spec["schedule"])  # once a day
    night = only(f"{target}/night", "RayJob")["spec"]
    # The policy knows only the small job that creates the RayJob: the RayJob's own deadline keeps nights apart.
    assert spec["startingDeadlineSeconds"] + night["activeDeadlineSeconds"] < 24 * 3600
    assert night["shutdownAfterJobFinishes"] is True
    assert night["backoffLimit"] == 0  # "something is worse" is a failed job, and running it again finds the same


def policies(target):
    return {m["metadata"]["name"]: m["spec"] for m in manifests(target) if m["kind"] == "NetworkPolicy"}


def chosen(selector, role):
    """Whether a pod of this role is meant by a pod selector; raises for one that this test cannot read."""
    labels = {COMPONENT: role}
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    by_label = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    by_expression = all(
        expression["operator"] == "In" and labels.get(expression["key"]) in expression["values"]
        for expression in selector.get("matchExpressions", [])
    )
    return by_label and by_expression


def reaches(rules, source, target, port):
    """Whether these policies let a pod of one role reach a port of a pod of another, both in the namespace."""

    def allowed(direction, mine, other):
        key = {"Egress": "to", "Ingress": "from"}[direction]
        for spec in rules.values():
            if direction not in spec["policyTypes"] or not chosen(spec["podSelector"], mine):
                continue
            for rule in spec.get(direction.lower(), []):
                ports = rule.get("ports")
                peers = rule.get(key)
                fits = ports is None or any(entry["port"] == port for entry in ports)
                known = peers is None or any(
                    "namespaceSelector" not in peer and "podSelector" in peer and chosen(peer["podSelector"], other)
                    for peer in peers
                )
                if fits and known:
                    return True
        return False

    return allowed("Egress", source, target) and allowed("Ingress", target, source)


@pytest.mark.parametrize("target", STANDING)
def test_the_network_is_closed_but_for_what_is_needed(target):
    rules = policies(target)
    assert rules["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    roles = ("head", "worker", "submitter", "nightly", "stranger")
    open_ways = {
        (source, to, port)
        for source in roles
        for to in roles
        for port in (6379, 8265, 10001, 45678)
        if reaches(rules, source, to, port)
    }
    ray = {(a, b, port) for a in ("head", "worker") for b in ("head", "worker") for port in (6379, 8265, 10001, 45678)}
    assert open_ways == ray | {("submitter", "head", 8265)}


def test_a_planted_hole_in_the_network_is_found():
    rules = policies("overlays/cloud")
    assert not reaches(rules, "stranger", "worker", 6379)
    rules["hole"] = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}]}
    assert reaches(rules, "stranger", "worker", 6379)


@pytest.mark.parametrize("target", STANDING)
def test_only_who_needs_it_leaves_the_namespace(target):
    out = {}
    for name, spec in policies(target).items():
        for rule in spec.get("egress", []):
            peers = rule.get("to", [{"everywhere": True}])
            if any(set(peer) & {"everywhere", "ipBlock", "namespaceSelector"} for peer in peers):
                out[name] = {entry["port"] for entry in rule["ports"]}
    assert out == {"names": {53}, "api-server": {443, 6443}, **({"store": {443}} if "cloud" in target else {})}
    roles = [role for role in ("head", "worker", "submitter", "nightly") if chosen(_api(target), role)]
    assert roles == ["head", "nightly"]


def _api(target):
    return policies(target)["api-server"]["podSelector"]


def test_every_pod_is_of_a_role_that_the_network_knows():
    found = {pod.role for target in TARGETS for manifest in manifests(target) for pod in pods(manifest)}
    assert found == {"head", "worker", "submitter", "nightly"}


def test_spot_nodes_are_for_workers_only_and_from_none():
    for target in ("overlays/cloud/study", "overlays/cloud/night", "overlays/cloud/cluster"):
        (manifest,) = manifests(target)
        spec = cluster_spec(manifest)
        capacity = "eks.amazonaws.com/capacityType"
        assert spec["headGroupSpec"]["template"]["spec"]["nodeSelector"][capacity] == "ON_DEMAND"
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        stay, spot = spec["workerGroupSpecs"]
        one = 0 if manifest["kind"] == "RayCluster" else 1  # a RayJob starts with room for one group
        assert (stay["minReplicas"], spot["minReplicas"], spot["replicas"]) == (one, 0, 0)
        assert spot["maxReplicas"] > 0
        assert spot["template"]["spec"]["nodeSelector"][capacity] == "SPOT"
        assert {"key": capacity, "operator": "Equal", "value": "SPOT", "effect": "NoSchedule"} in spot["template"][
            "spec"
        ]["tolerations"]
        kinds = {
            group["template"]["spec"]["nodeSelector"]["node.kubernetes.io/instance-type"] for group in (stay, spot)
        }
        assert len(kinds) == 1  # arms that are compared run on one kind of device


def test_secrets_are_referred_to_by_name():
    named = set()
    for target in (*STUDIES, *NIGHTS):
        for manifest in manifests(target):
            named.add(cluster_spec(manifest)["authOptions"]["secretName"])
            for pod in pods(manifest):
                for container in pod.containers:
                    named |= {source["secretRef"]["name"] for source in container.get("envFrom", [])}
    assert named == {"sharelm-ray-token", "sharelm-store", "sharelm-webhook"}


# What each call to S3 needs. s3fs: put_file is PutObject, in parts too; get_file is HeadObject and GetObject.
NEEDS = {
    "put_object": "s3:PutObject",
    "pipe_file": "s3:PutObject",
    "put_file": "s3:PutObject",
    "get_object": "s3:GetObject",
    "get_file": "s3:GetObject",
    "list_objects_v2": "s3:ListBucket",
    "delete_object": "s3:DeleteObject",
}


def used_actions():
    """The actions that the store's code needs, read from its calls."""
    tree = ast.parse((ROOT / "sharelm/store/s3.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    raw = {call.args[0].value for call in calls if call.func.attr in ("call_s3", "_call_s3")}
    whole = {call.func.attr for call in calls if ast.unparse(call.func.value) == "self._fs"}
    whole -= {"call_s3", "_call_s3", "set_session"}
    return {NEEDS[name] for name in raw | whole}  # a KeyError: a new call, whose action the policy must allow


def test_the_bucket_policy_allows_what_the_store_does_and_no_more():
    policy = json.loads((INFRA / "s3-policy.json").read_text())
    allowed = {}
    for statement in policy["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        if statement["Effect"] == "Allow":
            assert statement["Principal"] != "*"
            allowed |= dict.fromkeys(actions, statement)
        else:
            assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert set(allowed) == used_actions() | {"s3:AbortMultipartUpload"}
    assert allowed.pop("s3:ListBucket")["Condition"] == {"StringLikeIfExists": {"s3:prefix": "sharelm/*"}}
    for statement in allowed.values():
        assert fnmatch.fnmatch("arn:aws:s3:::BUCKET/sharelm/trials/x", statement["Resource"])
        assert not fnmatch.fnmatch("arn:aws:s3:::BUCKET/other/x", statement["Resource"])
    night = only("overlays/cloud/night", "RayJob")["spec"]["entrypoint"]
    assert night.endswith("--store s3://BUCKET/sharelm")  # the prefix of the policy
