"""The manifests as kustomize builds them, and what is in them."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
KUBERNETES = INFRA / "kubernetes"
Manifest = dict[str, Any]

# Every folder that somebody applies, by what it is for.
STANDING = ("overlays/kind", "overlays/cloud")
CLUSTERS = ("overlays/kind/cluster", "overlays/cloud/cluster")
STUDIES = ("overlays/kind/study", "overlays/cloud/study", "overlays/cloud/queued")
NIGHTS = ("overlays/kind/night", "overlays/cloud/night")
TARGETS = (*STANDING, *CLUSTERS, *STUDIES, *NIGHTS, "kueue")


def program(name: str) -> str:
    """The path of a program of this environment, or of the machine; skips where there is none."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: the dev requirements bring it on Linux")
    return found


def kustomize(folder: Path) -> str:
    """What `kubectl kustomize` makes of this folder."""
    done = subprocess.run([program("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def _text(target: str) -> str:
    return kustomize(KUBERNETES / target)


def manifests(target: str) -> list[Manifest]:
    """The manifests of one of the TARGETS; a fresh copy, which a test may spoil."""
    return list(yaml.safe_load_all(_text(target)))


def only(target: str, kind: str) -> Manifest:
    """The one manifest of this kind."""
    (found,) = [manifest for manifest in manifests(target) if manifest["kind"] == kind]
    return found


@dataclass(frozen=True)
class Pod:
    """A pod template and who has it: `where` for a message, `role` its component."""

    where: str
    template: Manifest

    @property
    def spec(self) -> Manifest:
        spec: Manifest = self.template["spec"]
        return spec

    @property
    def role(self) -> str:
        return str(self.template["metadata"]["labels"]["app.kubernetes.io/component"])

    @property
    def containers(self) -> list[Manifest]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def cluster_spec(manifest: Manifest) -> Manifest | None:
    """The RayClusterSpec in a RayCluster or RayJob."""
    return {"RayCluster": manifest.get("spec"), "RayJob": manifest.get("spec", {}).get("rayClusterSpec")}.get(
        manifest["kind"]
    )


def pods(manifest: Manifest) -> Iterator[Pod]:
    """All pod templates of a manifest."""
    kind, spec = manifest["kind"], manifest.get("spec", {})
    where = f"{kind} {manifest['metadata'].get('name')}"
    if kind == "CronJob":
        yield Pod(where, spec["jobTemplate"]["spec"]["template"])
    if kind in ("Job", "Deployment"):
        yield Pod(where, spec["template"])
    if kind == "RayJob" and "submitterPodTemplate" in spec:
        yield Pod(f"{where}, submitter", spec["submitterPodTemplate"])
    cluster = cluster_spec(manifest)
    if cluster is not None:
        yield Pod(f"{where}, head", cluster["headGroupSpec"]["template"])
        for group in cluster.get("workerGroupSpecs", []):
            yield Pod(f"{where}, {group['groupName']}", group["template"])


def constraint(package: str) -> str:
    """The version of a package in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (found,) = [line.partition("==")[2] for line in lines if line.startswith(f"{package}==")]
    return found
