"""What schemas do not know of a manifest. Each rule gives its complaints, so that a test can plant a breach."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.infra.built import Manifest, Pod, cluster_spec, pods

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
SECRET = re.compile(r"token|secret|password|credential|access_?key", re.IGNORECASE)


def unlimited(pod: Pod) -> Iterator[str]:
    """Containers without requests and limits of CPU and memory."""
    for container in pod.containers:
        resources = container.get("resources", {})
        for kind in ("requests", "limits"):
            for name in ("cpu", "memory"):
                if name not in resources.get(kind, {}):
                    yield f"{pod.where}: {container['name']} has no {kind}.{name}"


def privileged(pod: Pod) -> Iterator[str]:
    """What Kubernetes' restricted profile refuses, and a root file system that can be written."""
    security = pod.spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        yield f"{pod.where}: may run as root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{pod.where}: has no seccomp profile"
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(key):
            yield f"{pod.where}: {key}"
    for volume in pod.spec.get("volumes", []):
        if "hostPath" in volume:
            yield f"{pod.where}: volume {volume['name']} is a folder of the node"
    for container in pod.containers:
        yield from _container(f"{pod.where}: {container['name']}", container.get("securityContext", {}))


def _container(where: str, security: Manifest) -> Iterator[str]:
    for key, value in RESTRICTED.items():
        if security.get(key) != value:
            yield f"{where} has {key} = {security.get(key)!r}"
    for key in ("privileged", "runAsUser"):
        if key in security:
            yield f"{where} sets {key}"


def autoscaler(manifest: Manifest) -> Iterator[str]:
    """The same of the container that KubeRay adds to the head."""
    spec = cluster_spec(manifest) or {}
    if spec.get("enableInTreeAutoscaling"):
        options = {"name": "autoscaler", **spec.get("autoscalerOptions", {})}
        pod = Pod(manifest["kind"], {"spec": {"containers": [options]}})
        yield from unlimited(pod)
        yield from _container(f"{manifest['kind']}: autoscaler", options.get("securityContext", {}))


def token(manifest: Manifest) -> Iterator[str]:
    """A Ray that whoever reaches it may use."""
    spec = cluster_spec(manifest)
    if spec is not None and spec.get("authOptions") != {"mode": "token", "secretName": "sharelm-ray-token"}:
        yield f"{manifest['kind']}: authOptions = {spec.get('authOptions')!r}"


def unmounted(pod: Pod) -> Iterator[str]:
    """Mounts without a volume, and what a read-only root file system needs."""
    volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
    for container in pod.containers:
        mounts = container.get("volumeMounts", [])
        for mount in mounts:
            if mount["name"] not in volumes:
                yield f"{pod.where}: {container['name']} mounts {mount['name']}, which is no volume"
        if "/tmp" not in {mount["mountPath"] for mount in mounts}:
            yield f"{pod.where}: {container['name']} has no place to write to"


def identity(pod: Pod) -> Iterator[str]:
    """Pods that get an account's token of Kubernetes without need. KubeRay gives the head one of its own."""
    automatic = pod.spec.get("automountServiceAccountToken", True)
    if pod.role in ("worker", "submitter") and automatic:
        yield f"{pod.where}: gets a token of Kubernetes' API"


def secret_values(value: Any, path: str = "") -> Iterator[str]:
    """Values that stand where a reference should: of settings that are called like a secret, or look like a key."""
    if isinstance(value, dict):
        if value.get("kind") == "Secret":
            yield f"{path}: a Secret"
        name = value.get("name")
        if isinstance(name, str) and SECRET.search(name) and "value" in value:
            yield f"{path}: {name} has a value"
        for key, inner in value.items():
            yield from secret_values(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from secret_values(inner, f"{path}/{number}")
    elif isinstance(value, str) and re.search(r"\b(AKIA[0-9A-Z]{16}|[0-9a-f]{40,}|-----BEGIN)", value):
        yield f"{path}: looks like a key"


def breaches(manifest: Manifest) -> list[str]:
    """All complaints about a manifest."""
    of_pods = [said for pod in pods(manifest) for rule in OF_PODS for said in rule(pod)]
    return [*of_pods, *autoscaler(manifest), *token(manifest), *secret_values(manifest)]


OF_PODS = (unlimited, privileged, unmounted, identity)
