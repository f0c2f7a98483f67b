"""Command lines in manifests, workflows and pages are those of our programs; the ten commands do what they say."""

import base64
import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.infra.built import (
    INFRA,
    KUBERNETES,
    NIGHTS,
    ROOT,
    STUDIES,
    TARGETS,
    cluster_spec,
    manifests,
    only,
    pods,
    program,
)
from tests.infra.commands import ours, parse, shell_blocks, simple_commands

PAGES = ("docs/clusters.md", "infra/README.md", "README.md")


def in_workflows():
    for file in sorted((ROOT / ".github/workflows").glob("*.yml")):
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            for step in job["steps"]:
                if "run" in step:
                    yield f"{file.name}: {step['name']}", re.sub(r"\$\{\{.*?\}\}", "x", step["run"])


def in_pages():
    for page in PAGES:
        for number, block in enumerate(shell_blocks((ROOT / page).read_text(encoding="utf-8"))):
            yield f"{page}: block {number}", block


def in_ray_up():
    config = yaml.safe_load((INFRA / "ray-up.yaml").read_text())
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        yield f"ray-up.yaml: {key}", "\n".join(config[key])


SCRIPTS = dict([*in_workflows(), *in_pages(), *in_ray_up()])
COMMANDS = {
    f"{where}: {' '.join(words)[:80]}": words
    for where, script in SCRIPTS.items()
    for command in simple_commands(script)
    for words in ours(command)
}


@pytest.mark.parametrize("where", COMMANDS)
def test_commands_in_workflows_and_pages_parse(where):
    parse(COMMANDS[where])


def test_commands_are_found():
    found = {(words[0], words[1] if words[0] != "python" else words[2]) for words in COMMANDS.values()}
    assert {("sharelm", "nightly"), ("sharelm", "submit"), ("sharelm", "run"), ("python", "jobs.study")} <= found
    assert {("ray", "start"), ("ray", "job"), ("ray", "up")} <= found


@pytest.mark.parametrize("target", [*STUDIES, *NIGHTS])
def test_the_driver_of_every_rayjob_parses(target):
    spec = only(target, "RayJob")["spec"]
    (command,) = simple_commands(spec["entrypoint"])
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in head["containers"][0]["volumeMounts"]}
    study, store = (command[command.index(option) + 1] for option in ("--study", "--store"))
    assert mounts["/studies"] == "studies"
    assert Path(study).parent == Path("/studies")
    assert (ROOT / "examples" / Path(study).name).is_file()  # what the ten commands put there
    if not store.startswith("s3://"):  # a folder, which every node mounts
        workers = [pod for pod in pods(only(target, "RayJob")) if pod.role == "worker"]
        assert all(store in [m["mountPath"] for m in pod.containers[0]["volumeMounts"]] for pod in workers)
        assert store in mounts
    parse(command)


@pytest.mark.parametrize(
    "command",
    [
        "python -m jobs.study --study x.toml",  # no store
        "python -m jobs.study --studies x.toml --store /s",
        "python -m jobs.nights --study x.toml --store /s",
        "sharelm submit x.toml --stores s3://b/p",
        "sharelm submits x.toml",
        "ray start --head --dashboard-hosts=127.0.0.1",
        "ray jobs submit -- python -m jobs.study",
    ],
)
def test_a_planted_wrong_command_is_refused(command):
    words = next(ours(next(simple_commands(command))))
    with pytest.raises(AssertionError):
        parse(words)


def test_ray_start_knows_the_parameters_of_every_group():
    from ray.scripts.scripts import start

    known = {option.removeprefix("--") for parameter in start.params for option in parameter.opts}
    given = set()
    for target in TARGETS:
        for spec in filter(None, map(cluster_spec, manifests(target))):
            for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                given |= set(group["rayStartParams"])
    assert given == {"num-cpus"}
    assert given <= known


def ten_commands():
    """The commands of the section, in order."""
    page = (ROOT / "docs/clusters.md").read_text(encoding="utf-8")
    section = page.partition("## From nothing to the first night in ten commands")[2]
    return next(shell_blocks(section)).replace("\\\n", " ").strip().splitlines()


def test_there_are_ten():
    assert len(ten_commands()) == 10


def dry(command, folder, tmp_path):
    """What a `kubectl create` would send: the command itself, with kubectl told to print it."""
    words = os.pathsep.join([str(Path(program("kubectl")).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": words, "KUBECONFIG": str(tmp_path / "none")}
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} --dry-run=client -o yaml"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def one(commands, words):
    (found,) = [command for command in commands if words in command]
    return found


def test_the_secret_is_what_the_clusters_name(tmp_path):
    secret = dry(one(ten_commands(), "create secret"), ROOT, tmp_path)
    token = base64.b64decode(secret["data"]["auth_token"]).decode()
    assert re.fullmatch("[0-9a-f]{64}", token)
    named = {cluster_spec(only(target, "RayJob"))["authOptions"]["secretName"] for target in NIGHTS}
    assert named == {secret["metadata"]["name"]}


def test_the_studies_are_what_the_head_mounts(tmp_path):
    studies = dry(one(ten_commands(), "sharelm-studies"), ROOT, tmp_path)
    assert list(studies["data"]) == ["quickstart.toml"]
    volumes = cluster_spec(only(NIGHTS[0], "RayJob"))["headGroupSpec"]["template"]["spec"]["volumes"]
    assert {"name": studies["metadata"]["name"], "optional": True} in [v.get("configMap") for v in volumes]


@pytest.mark.parametrize("overlay", ["kind", "cloud"])
def test_the_night_is_created_from_what_the_cronjob_mounts(overlay, tmp_path):
    config = dry(one(ten_commands(), "kustomize").replace("overlays/kind", f"overlays/{overlay}"), ROOT, tmp_path)
    (pod,) = pods(only(f"overlays/{overlay}", "CronJob"))
    (container,) = pod.containers
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "night"]
    (volume,) = [volume for volume in pod.spec["volumes"] if volume["name"] == "night"]
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    (file,) = config["data"]
    assert f"--filename={mount['mountPath']}/{file}" in container["args"]
    night = yaml.safe_load(config["data"][file])
    expected = only(f"overlays/{overlay}/night", "RayJob")
    del expected["metadata"]["name"]  # every night has its own
    assert night == expected
    assert night["metadata"]["generateName"] == "sharelm-night-"
    job = one(ten_commands(), "create job")
    assert f"--from=cronjob/{only(f'overlays/{overlay}', 'CronJob')['metadata']['name']}" in job
    assert all(f"-n {night['metadata']['namespace']} " in command for command in ten_commands()[6:10])


def test_folders_and_files_that_pages_name_are_there():
    for where, script in in_pages():
        for command in simple_commands(script):
            for option, value in itertools.pairwise(command):
                if command[0] == "kubectl" and (option in ("-k", "kustomize")) and "://" not in value:
                    if not value.startswith("github.com/"):
                        assert Path(value).relative_to("infra/kubernetes").as_posix() in TARGETS, where
                elif option in ("-f", "--config") and value.startswith("infra/"):
                    assert (ROOT / value).is_file(), where


def test_kind_loads_the_image_that_it_runs():
    name = yaml.safe_load((KUBERNETES / "overlays/kind/kind.yaml").read_text())["name"]
    image = pods(only("overlays/kind/night", "RayJob"))
    images = {container["image"] for pod in image for container in pod.containers}
    build, load = one(ten_commands(), "docker build"), one(ten_commands(), "kind load")
    assert len(images) == 1
    assert f"-t {images.pop()} " in build
    assert build.split()[build.split().index("-t") + 1] in load.split()
    assert load.endswith(f"--name {name}")
