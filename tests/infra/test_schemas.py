"""kustomize builds every folder that is applied, each manifest fits its schema, and a planted mistake does not."""

import shutil

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.infra.built import INFRA, KUBERNETES, NIGHTS, STANDING, STUDIES, TARGETS, kustomize, manifests, only
from tests.infra.schemas import KUBERNETES_VERSION, OURS, complaints


@pytest.mark.parametrize("target", TARGETS)
def test_every_manifest_fits_its_schema(target):
    built = manifests(target)
    assert built
    assert {(m["kind"], m["metadata"]["name"]): found for m in built if (found := complaints(m))} == {}


def test_no_folder_is_forgotten():
    kinds = {path.parent: yaml.safe_load(path.read_text())["kind"] for path in KUBERNETES.rglob("kustomization.yaml")}
    applied = {folder.relative_to(KUBERNETES).as_posix() for folder, kind in kinds.items() if kind != "Component"}
    assert applied - {"base", "cluster"} == set(TARGETS)
    named = {path for file in KUBERNETES.rglob("kustomization.yaml") for path in _named(file)}
    assert {path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml"} - named == {
        KUBERNETES / "overlays/kind/kind.yaml"  # of kind itself
    }


def _named(file):
    """The files that a kustomization reads."""
    read = yaml.safe_load(file.read_text())
    patches = [patch["path"] for patch in read.get("patches", []) if "path" in patch]
    return {file.parent / name for name in [*read.get("resources", []), *patches] if name.endswith(".yaml")}


def test_what_each_folder_holds():
    for target in STANDING:
        kinds = {manifest["kind"] for manifest in manifests(target)}
        assert {"Namespace", "CronJob", "NetworkPolicy", "Role", "RoleBinding", "ServiceAccount"} <= kinds
        assert not kinds & {"RayCluster", "RayJob", "Secret"}  # by day nothing runs; secrets are made by hand
    for target in (*STUDIES, *NIGHTS):
        assert [manifest["kind"] for manifest in manifests(target)] == ["RayJob"]


def test_our_schemas_are_schemas():
    for name in OURS.values():
        Draft202012Validator.check_schema(yaml.safe_load((INFRA / "schemas" / name).read_text()))


def at(manifest, path):
    """The mapping or list in which the last step of a path lies, and that step."""
    *before, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    for step in before:
        manifest = manifest[step]
    return manifest, last


STUDY, BASE = "overlays/cloud/study", "overlays/cloud"
POD = "spec/rayClusterSpec/workerGroupSpecs/0/template/spec"


@pytest.mark.parametrize(
    ("target", "kind", "path", "value", "says"),
    [
        (STUDY, "RayJob", "spec/entryPoint", "python", "'entryPoint' was unexpected"),
        (STUDY, "RayJob", "spec/submissionMode", "K8sJob", "'K8sJob' is not one of"),
        (STUDY, "RayJob", "spec/activeDeadlineSeconds", 0, "0 is less than the minimum"),
        (STUDY, "RayJob", "spec/backoffLimit", "1", "'1' is not of type 'integer'"),
        (STUDY, "RayJob", "spec/rayClusterSpec", None, "not valid under any of the given schemas"),
        (STUDY, "RayJob", "spec/rayClusterSpec/rayVersion", None, "'rayVersion' is a required property"),
        (STUDY, "RayJob", "spec/rayClusterSpec/headGroupSpec", None, "'headGroupSpec' is a required property"),
        (STUDY, "RayJob", "spec/rayClusterSpec/authOptions/mode", "tokens", "'tokens' is not one of"),
        (STUDY, "RayJob", "spec/rayClusterSpec/autoscalerOptions/version", "v3", "'v3' is not one of"),
        (STUDY, "RayJob", "spec/rayClusterSpec/workerGroupSpecs/0/minReplica", 1, "'minReplica' was unexpected"),
        (STUDY, "RayJob", "spec/rayClusterSpec/headGroupSpec/rayStartParams/num-cpus", 0, "0 is not of type 'string'"),
        (STUDY, "RayJob", f"{POD}/restartPolicy", "Always", "'Never' was expected"),
        (STUDY, "RayJob", f"{POD}/containers/0/resource", {}, "'resource' was unexpected"),
        (STUDY, "RayJob", f"{POD}/tolerations/0/effect", ["NoSchedule"], "is not of type"),
        ("overlays/kind/cluster", "RayCluster", "spec/enableInTreeAutoScaling", True, "was unexpected"),
        (BASE, "CronJob", "spec/concurrency", "Forbid", "'concurrency' was unexpected"),
        (BASE, "CronJob", "spec/schedule", None, "'schedule' is a required property"),
        (BASE, "Role", "rules/0/verb", ["create"], "'verb' was unexpected"),
        ("kueue", "ClusterQueue", "spec/resourceGroups/0/flavors/0/resources/0/quota", 1, "'quota' was unexpected"),
        ("kueue", "LocalQueue", "apiVersion", "kueue.x-k8s.io/v1beta3", "'kueue.x-k8s.io/v1beta2' was expected"),
    ],
)
def test_a_planted_mistake_is_found(target, kind, path, value, says):
    manifest = only(target, kind)
    assert complaints(manifest) == []
    place, last = at(manifest, path)
    if value is None:
        del place[last]
    else:
        place[last] = value
    assert any(says in complaint for complaint in complaints(manifest)), complaints(manifest)


def test_a_folder_that_does_not_build_is_found(tmp_path):
    copy = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    file = copy / "overlays/kind/study/kustomization.yaml"
    file.write_text(file.read_text().replace("../cluster", "../clusters"))
    with pytest.raises(AssertionError, match="clusters"):
        kustomize(copy / "overlays/kind/study")


def test_a_change_of_the_cluster_reaches_study_and_night(tmp_path):
    """The cluster's spec is written once: what a standing RayCluster has, the RayJobs have too."""
    copy = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    file = copy / "cluster/cluster.yaml"
    file.write_text(file.read_text().replace("idleTimeoutSeconds: 300", "idleTimeoutSeconds: 77"))
    for target in ("overlays/kind/cluster", "overlays/kind/study", "overlays/cloud/night"):
        assert "idleTimeoutSeconds: 77" in kustomize(copy / target)


def test_the_kubernetes_version_is_that_of_the_manifests():
    namespace = only(BASE, "Namespace")["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce-version"] == f"v{KUBERNETES_VERSION}"
