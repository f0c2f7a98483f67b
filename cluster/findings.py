"""What checks find: one line each and one for what to do; and the versions that ShareLM works with."""

from __future__ import annotations

import re
from typing import Any, Literal

from sharelm.formats import si

Status = Literal["ok", "warn", "fail"]
Finding = dict[str, str]
GB = 10**9

# Least version, and the first that is too new; those of pyproject.toml, which is not there once ShareLM is installed.
RANGES: dict[str, tuple[str, str | None]] = {
    "python": ("3.11", "3.14"),
    "torch": ("2.11", "2.14"),
    "ray": ("2.60", "2.61"),
    "deepspeed": ("0.19.8", "0.20"),
    "pyarrow": ("23", None),
}


def finding(check: str, status: Status, found: str, do: str = "") -> Finding:
    """One check's answer."""
    return {"check": check, "status": status, "found": found, "do": do}


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: `2.13.0+cpu` is (2, 13, 0)."""
    begin = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, begin.group().split("."))) if begin else ()


def works(name: str, version: str) -> bool:
    """Whether ShareLM works with this version."""
    least, below = RANGES[name]
    return _numbers(version) >= _numbers(least) and (below is None or _numbers(version) < _numbers(below))


def same(name: str, one: str, other: str) -> bool:
    """Whether two versions are the same but for how they were built (`+cpu`, `+cu130`), and Python's last number."""
    first, second = _numbers(one), _numbers(other)
    return first[:2] == second[:2] if name == "python" else first == second


def wanted(name: str) -> str:
    """What to install."""
    least, below = RANGES[name]
    return f"{'use' if name == 'python' else 'install'} {name} >= {least}" + (f", < {below}" if below else "")


def library(name: str, about: dict[str, Any], check: str | None = None) -> Finding:
    """Whether a library is of a right version; it has `error` in place of `version` where it cannot be imported."""
    check = check or name
    if "error" in about:
        return finding(check, "fail", about["error"], wanted(name))
    shown = ", ".join(about[part] for part in ("version", "device") if part in about)
    right = works(name, about["version"])
    return finding(check, "ok" if right else "fail", shown, "" if right else wanted(name))


def room(check: str, free: int, where: str, *, warn: float, fail: float, do: str) -> Finding:
    """Whether enough bytes are free; limits in GB."""
    status: Status = "fail" if free < fail * GB else "warn" if free < warn * GB else "ok"
    return finding(check, status, f"{si(free, 'B')} free in {where}", "" if status == "ok" else do)


def diagnosis_text(findings: list[Finding]) -> str:
    """The findings for a reader, one line each and one for what to do."""
    width = max(len(one["check"]) for one in findings)
    lines = []
    for one in findings:
        lines.append(f"{one['status']:<4}  {one['check']:<{width}}  {one['found']}")
        if one["do"]:
            lines.append(f"{'':<{width + 8}}-> {one['do']}")
    return "\n".join(lines)
