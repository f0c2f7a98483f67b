"""What a job found on a cluster's nodes, as findings: one a check and node."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cluster.findings import Finding, finding, library, room, same

LIBRARIES = ("torch", "ray", "deepspeed", "pyarrow")
CLOCK_S = 60.0
SHARED_STORE = "give s3://BUCKET/PREFIX with credentials on every node, or a folder that every node mounts at this path"


def _version(found: dict[str, Any], name: str) -> dict[str, Any]:
    """`version`, or `error`."""
    about = found[name]
    return about if isinstance(about, dict) else {"version": about}


def _libraries(node: dict[str, Any], where: str, driver: dict[str, Any], here: dict[str, Any]) -> list[Finding]:
    """Fails outside of what ShareLM works with and where the nodes differ; warns where this machine differs."""
    findings = []
    for name in ("python", *LIBRARIES):
        about = _version(node, name)
        one = library(name, about, f"{name} on {where}")
        findings.append(one)
        if one["status"] == "fail":
            continue
        first, own = _version(driver, name).get("version"), _version(here, name).get("version")
        if first and not same(name, first, about["version"]):
            one |= {"status": "fail", "do": f"the driver's node has {first}: use the same on every node"}
        elif own and not same(name, own, about["version"]):
            one |= {"status": "warn", "do": f"this machine has {own}, so what runs here and there may differ"}
    return findings


def _devices(node: dict[str, Any], where: str, kinds: list[str]) -> Finding:
    """What the node computes on, and whether torch sees what Ray counts."""
    check, gpus = f"devices on {where}", node["torch"].get("gpus", [])
    names = [f"{count} x {name}" for name, count in Counter(gpus).items()]
    shown = ", ".join([*names, f"{node['cpus']} CPUs"])
    if not node["ray_cpus"] and not node["ray_gpus"]:
        return finding(check, "ok", f"{shown}; Ray may use none of them, the node only coordinates")
    if len(gpus) < node["ray_gpus"]:
        do = "install torch's CUDA build and a driver that it takes, or start Ray with --num-gpus=0 there"
        return finding(check, "fail", f"{shown}; Ray counts {node['ray_gpus']} GPUs and torch sees {len(gpus)}", do)
    if node["ray_gpus"] and len(kinds) > 1:
        do = "arms that are compared must meet the same: start Ray with --num-gpus=0 where nothing is to be trained"
        return finding(check, "fail", f"{shown}; the cluster has {len(kinds)} kinds of GPU ({', '.join(kinds)})", do)
    return finding(check, "ok", shown)


def _store(node: dict[str, Any], where: str, uri: str, problem: str | None) -> Finding:
    check = f"store on {where}"
    if problem is not None:
        if not node["driver"]:
            return finding(check, "fail", "not asked: the driver could not write there", "see the driver's node")
        return finding(check, "fail", problem, SHARED_STORE)
    if node["store_problem"] is not None:
        return finding(check, "fail", f"{uri}: {node['store_problem']}", SHARED_STORE)
    return finding(check, "ok", f"{uri}: read what the driver wrote")


def _clock(node: dict[str, Any], where: str) -> Finding:
    ahead = node["clock_ahead_s"]
    what = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the driver's clock"
    if abs(ahead) <= CLOCK_S:
        return finding(f"clock on {where}", "ok", what)
    do = "set the clock, for example by chrony: S3 refuses requests that are off by minutes, and times in logs mislead"
    return finding(f"clock on {where}", "warn", what, do)


def _image(node: dict[str, Any], where: str, image: str) -> Finding:
    check, own = f"image on {where}", node["image"]
    if own == image:
        return finding(check, "ok", image)
    if own is None:
        return finding(check, "warn", "it does not say which", "start Ray there with its image's name in SHARELM_IMAGE")
    return finding(check, "fail", f"{own}, and not {image}", "start the node from that image, or correct --image")


def node_findings(answer: dict[str, Any], here: dict[str, Any], store: str, image: str | None = None) -> list[Finding]:
    """The findings about every node, the driver's first; `here` is what this machine's probe found."""
    nodes = sorted(answer["nodes"], key=lambda node: (not node["driver"], node["address"], node["id"]))
    twice = {address for address, count in Counter(node["address"] for node in nodes).items() if count > 1}
    driver = next((node for node in nodes if "error" not in node), None)
    kinds = sorted({gpu for node in nodes if node["ray_gpus"] for gpu in node.get("torch", {}).get("gpus", [])})
    findings = []
    for node in nodes:
        where = node["address"] + (f" ({node['id'][:6]})" if node["address"] in twice else "")
        if "error" in node:
            do = "see Ray's logs on that node; start Ray there again if its processes are gone"
            findings.append(finding(f"node {where}", "fail", node["error"], do))
            continue
        assert driver is not None
        temporary = node["temporary"]
        findings += [
            *_libraries(node, where, driver, here),
            _devices(node, where, kinds),
            _store(node, where, store, answer["store_problem"]),
            room(
                f"disk on {where}",
                temporary["free_bytes"],
                temporary["folder"],
                warn=5,
                fail=1,
                do="free it or set TMPDIR elsewhere",
            ),
            _clock(node, where),
            *([_image(node, where, image)] if image else []),
        ]
    return findings
