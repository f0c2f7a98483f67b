"""Every manifest against the schema of its kind: Kubernetes' own, and those of infra/schemas."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.infra.built import INFRA, Manifest

KUBERNETES_VERSION = "1.34"  # the least that is supported; base/nightly.yaml brings its kubectl
OURS = {"ray.io": "kuberay.json", "kueue.x-k8s.io": "kueue.json"}


def _core(name: str) -> Any:
    pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate: the dev requirements bring it")
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES_VERSION}.0-local-strict"
    return json.loads((folder / name).read_text(encoding="utf-8"))


@functools.cache
def _registry() -> Registry[Any]:
    core = DRAFT202012.create_resource(_core("_definitions.json"))
    ours = [
        (name, DRAFT202012.create_resource(json.loads((INFRA / "schemas" / name).read_text(encoding="utf-8"))))
        for name in OURS.values()
    ]
    return Registry().with_resources([("/api/_definitions.json", core), *ours])


@functools.cache
def _validator(api_version: str, kind: str) -> Draft202012Validator:
    group, _, version = api_version.rpartition("/")
    if group in OURS:
        return Draft202012Validator({"$ref": f"{OURS[group]}#/$defs/{kind}"}, registry=_registry())
    name = "-".join(part for part in (kind.lower(), group.partition(".")[0], version) if part)
    return Draft202012Validator(_core(f"{name}.json"), registry=_registry())


def complaints(manifest: Manifest) -> list[str]:
    """What is wrong with a manifest: field and reason."""
    found = _validator(manifest["apiVersion"], manifest["kind"]).iter_errors(manifest)
    return [f"{error.json_path}: {error.message}" for error in found]
