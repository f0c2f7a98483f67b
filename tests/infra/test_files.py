"""YAML, workflows and Ray's cluster launcher, held against what reads them; pages that speak of versions."""

import copy
import re
import subprocess
import sys

import jsonschema
import pytest
import yaml

from tests.infra.built import INFRA, ROOT, constraint, only

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
YAML_RULES = (
    "{extends: default, rules: {line-length: {max: 128}, document-start: disable, "
    "truthy: {check-keys: false}, braces: {max-spaces-inside: 0}}}"
)


def yaml_lint(*paths):
    pytest.importorskip("yamllint", reason="no yamllint: the dev requirements bring it")
    return subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", "-f", "parsable", "-d", YAML_RULES, *map(str, paths)],
        capture_output=True,
        text=True,
    )


def check_workflow(path, schema="vendor.github-workflows"):
    pytest.importorskip("check_jsonschema", reason="no check-jsonschema: the dev requirements bring it")
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)],
        capture_output=True,
        text=True,
    )


def test_all_yaml_passes_its_linter():
    done = yaml_lint(INFRA, *WORKFLOWS)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_planted_mistake_in_yaml_is_found(tmp_path):
    (tmp_path / "a.yaml").write_text("a: 1\na: 2\nb:  [1]\n")
    said = yaml_lint(tmp_path).stdout
    assert "duplication of key" in said
    assert "too many spaces" in said


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_fit_their_schema_and_end(path):
    for schema in ("vendor.github-workflows", "custom.github-workflows-require-timeout"):
        done = check_workflow(path, schema)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("old", "new"),
    [("runs-on:", "run-on:"), ("cron:", "crone:"), ("    steps:", "    step:"), ("if: vars", "iff: vars")],
)
def test_a_planted_mistake_in_a_workflow_is_found(tmp_path, old, new):
    text = (ROOT / ".github/workflows/nightly.yml").read_text()
    assert old in text
    (tmp_path / "nightly.yml").write_text(text.replace(old, new, 1))
    assert check_workflow(tmp_path / "nightly.yml").returncode == 1


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_read_and_no_more_and_name_actions_by_digest(path):
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    uses = re.findall(r"uses: (\S+)( +# v[\d.]+)?", text)
    assert uses
    for action, version in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
        assert version, f"{action}: which version is it?"
    for script in re.findall(r"run: .*", text):  # what anybody may write must not become shell
        assert "github.event" not in script
    for name, value in re.findall(r"(\w*(?:TOKEN|KEY|SECRET)\w*): (.*)", text):
        assert value.startswith("${{ secrets."), name


def launcher():
    return yaml.safe_load((INFRA / "ray-up.yaml").read_text())


def check_launcher(config):
    """What `ray up` checks before it calls the cloud: Ray's own schema and rules."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))


def test_ray_up_takes_the_launcher_file():
    check_launcher(launcher())


@pytest.mark.parametrize("change", ["field", "type", "head"])
def test_a_planted_mistake_in_the_launcher_file_is_found(change):
    config = launcher()
    if change == "field":
        config["max_worker"] = 1
    elif change == "type":
        config["available_node_types"]["gpu"]["max_workers"] = "one"
    else:
        config["head_node_type"] = "heads"
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        check_launcher(config)


def test_the_launcher_agrees_with_the_cloud_overlay():
    config, kinds = launcher(), launcher()["available_node_types"]
    groups = only("overlays/cloud/study", "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    selected = {group["template"]["spec"]["nodeSelector"]["node.kubernetes.io/instance-type"] for group in groups}
    assert {kinds[name]["node_config"]["InstanceType"] for name in ("gpu", "gpu_spot")} == selected
    bounds = [(kinds[name]["min_workers"], kinds[name]["max_workers"]) for name in ("gpu", "gpu_spot")]
    assert bounds == [(group["minReplicas"], group["maxReplicas"]) for group in groups]
    assert config["max_workers"] == sum(most for _, most in bounds)
    assert kinds["gpu_spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in kinds[config["head_node_type"]]["node_config"]
    image = groups[0]["template"]["spec"]["containers"][0]["image"]
    assert config["docker"]["image"] == image


def test_the_launcher_gives_the_head_alone_more_than_the_bucket():
    kinds = launcher()["available_node_types"]
    profiles = {name: kind["node_config"]["IamInstanceProfile"]["Arn"].split("/")[1] for name, kind in kinds.items()}
    assert profiles == {"head": "sharelm-head", "gpu": "sharelm", "gpu_spot": "sharelm"}
    assert all(kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required" for kind in kinds.values())
    assert launcher()["head_setup_commands"] == [f"pip install --user boto3=={constraint('botocore')}"]


def test_the_launcher_starts_every_node_with_the_token():
    config = launcher()
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [command for command in config[key] if "ray start" in command]
        assert start.startswith("RAY_AUTH_MODE=token ray start ")
    assert config["file_mounts"] == {"/scratch/.ray/auth_token": "~/.ray/auth_token"}  # HOME is /scratch in the image
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]


def test_one_release_of_kuberay_is_named():
    page = (ROOT / "docs/clusters.md").read_text(encoding="utf-8")
    (tag,) = re.findall(r"kuberay/ray-operator/config/default\?ref=(v[\d.]+)", page)
    for name in ("README.md", "kuberay.json"):
        assert f"v{tag[1:]}" in (INFRA / "schemas" / name).read_text(encoding="utf-8")


def test_the_kubectl_of_the_nightly_is_of_the_cluster_that_is_supported():
    from tests.infra.schemas import KUBERNETES_VERSION

    pod = only("overlays/cloud", "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert re.fullmatch(
        rf"registry\.k8s\.io/kubectl:v{re.escape(KUBERNETES_VERSION)}\.\d+", pod["containers"][0]["image"]
    )
