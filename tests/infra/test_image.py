"""The image: linted, and of the versions, ports and folders that the rest of the project speaks of."""

import re
import subprocess
import tomllib

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from ray._private import ray_constants

from cluster.options import DEFAULT_ADDRESS
from tests.infra.built import INFRA, ROOT, TARGETS, cluster_spec, constraint, manifests, only, pods, program

DOCKERFILE = (INFRA / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TAG = re.compile(r"\bsharelm:(\d[\w.-]*)")


def lint(path):
    done = subprocess.run(
        [program("hadolint"), "--config", str(INFRA / ".hadolint.yaml"), str(path)], capture_output=True, text=True
    )
    return done.returncode, done.stdout


def instructions(name):
    """What follows this instruction, continuation lines joined."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return re.findall(rf"^{name} +(.*)$", joined, re.MULTILINE)


def test_the_dockerfile_passes_its_linter():
    assert lint(INFRA / "Dockerfile") == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (r"FROM python:\S+", "FROM python:latest", "DL3007"),
        (r"USER 1000:1000", "USER root", "DL3002"),
        (r"WORKDIR /scratch", "WORKDIR scratch", "DL3000"),
        (r"# hadolint ignore=DL3008\n", "", "DL3008"),
        (r'CMD \["sharelm", "--help"\]', "CMD sharelm --help", "DL3025"),
    ],
)
def test_a_planted_mistake_is_found(tmp_path, old, new, rule):
    spoiled, count = re.subn(old, new, DOCKERFILE)
    assert count == 1
    (tmp_path / "Dockerfile").write_text(spoiled, encoding="utf-8")
    code, said = lint(tmp_path / "Dockerfile")
    assert code == 1
    assert rule in said


def test_the_image_takes_every_version_from_the_constraints():
    installs = re.findall(r"pip install [^&;\\\n]*", "\n".join(instructions("RUN")))
    assert [install.strip(" ;'").split()[-1].strip("'") for install in installs] == ["torch", "torch", ".[hf,harness]"]
    assert all("--constraint constraints.txt" in install for install in installs)
    assert "==" not in DOCKERFILE
    for package in ("torch", "ray", "deepspeed"):
        (wanted,) = [d for d in PROJECT["dependencies"] if re.match(rf"{package}[\[><=]", d)]
        assert SpecifierSet(re.sub(r"^[\w\[\],]+?(?=[><=])", "", wanted)).contains(constraint(package))


def test_python_is_one_that_the_project_supports_and_pinned_by_digest():
    (base,) = [image for image in instructions("FROM") if image.startswith("python:")]
    found = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-bookworm@sha256:[0-9a-f]{64} AS base", base)
    assert found
    assert SpecifierSet(PROJECT["requires-python"]).contains(found[1])
    folder = ROOT / ".github/workflows"
    nightly, tests = (yaml.safe_load((folder / f"{name}.yml").read_text()) for name in ("nightly", "tests"))
    steps = [step for step in nightly["jobs"]["nightly"]["steps"] if "python-version" in step.get("with", {})]
    assert [step["with"]["python-version"] for step in steps] == [found[1]]
    matrix = tests["jobs"]["check"]["strategy"]["matrix"]["python"]
    assert found[1] in matrix
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(version) for version in matrix)


def image_tags():
    """Every tag of our image in manifests, Dockerfile, launcher and pages, by where."""
    for target in TARGETS:
        for manifest in manifests(target):
            for pod in pods(manifest):
                for container in pod.containers:
                    if not container["image"].startswith("registry.k8s.io/"):
                        yield pod.where, TAG.search(container["image"])[1]
    for name in ("infra/Dockerfile", "infra/ray-up.yaml", "docs/clusters.md"):
        for tag in TAG.findall((ROOT / name).read_text(encoding="utf-8")):
            yield name, tag


def test_image_tags_name_the_versions_in_the_image():
    tags = set(image_tags())
    both = {f"{PROJECT['version']}-ray{constraint('ray')}-{device}" for device in ("gpu", "cpu")}
    assert {tag for _, tag in tags} == both
    assert {"infra/Dockerfile", "infra/ray-up.yaml", "docs/clusters.md"} <= {where for where, _ in tags}


def test_ray_versions_are_that_of_the_constraints():
    found = [spec["rayVersion"] for target in TARGETS for spec in filter(None, map(cluster_spec, manifests(target)))]
    assert set(found) == {constraint("ray")}


def test_every_ray_container_has_one_image():
    for target in TARGETS:
        for manifest in manifests(target):
            if cluster_spec(manifest) is not None:
                assert len({c["image"] for pod in pods(manifest) for c in pod.containers}) == 1, target


def test_ports_agree_everywhere():
    exposed = {int(port) for line in instructions("EXPOSE") for port in line.split()}
    gcs, job_server, metrics = ray_constants.DEFAULT_PORT, ray_constants.DEFAULT_DASHBOARD_PORT, 8080  # KubeRay's
    assert exposed == {gcs, job_server, metrics}
    for target in TARGETS:
        for spec in filter(None, map(cluster_spec, manifests(target))):
            ports = spec["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]
            assert {port["name"]: port["containerPort"] for port in ports} == {
                "gcs-server": gcs,
                "dashboard": job_server,
                "metrics": metrics,
            }
    for target in ("overlays/kind", "overlays/cloud"):
        policies = {m["metadata"]["name"]: m["spec"] for m in manifests(target) if m["kind"] == "NetworkPolicy"}
        rules = [*policies["job-server"]["ingress"], *policies["submitter"]["egress"]]
        assert {port["port"] for rule in rules for port in rule["ports"]} == {job_server}
    (check,) = instructions("HEALTHCHECK")
    assert f":{ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT}/api/local_raylet_healthz" in check
    assert DEFAULT_ADDRESS.endswith(f":{job_server}")
    page = (ROOT / "docs/clusters.md").read_text(encoding="utf-8")
    name = only("overlays/kind/cluster", "RayCluster")["metadata"]["name"]
    assert f"port-forward svc/{name}-head-svc {job_server} " in page  # KubeRay calls it so
    launcher = (INFRA / "ray-up.yaml").read_text(encoding="utf-8")
    assert f"--port={gcs} " in launcher
    assert f"--dashboard-port={job_server}\n" in launcher
    assert f"$RAY_HEAD_IP:{gcs}\n" in launcher


def test_user_and_folders_are_those_of_the_pods():
    (user,) = instructions("USER")
    environment = dict(pair.split("=", 1) for line in instructions("ENV") for pair in line.split() if "=" in pair)
    folders = {value for value in environment.values() if value.startswith("/")}
    assert {folder.split("/")[1] for folder in folders} == {"scratch", "tmp"}
    for target in TARGETS:
        for manifest in manifests(target):
            for pod in pods(manifest):
                security = pod.spec["securityContext"]
                assert f"{security['runAsUser']}:{security['runAsGroup']}" == user
                if pod.role != "nightly":
                    mounts = {mount["mountPath"] for mount in pod.containers[0]["volumeMounts"]}
                    assert {"/scratch", "/tmp"} <= mounts, pod.where


def test_the_builder_gets_what_is_copied_and_no_more():
    copied = {word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]}
    lines = (INFRA / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
    packages = {name.removesuffix("*") for name in ("cluster*", "jobs*", "sharelm*")}
    assert packages <= copied
