"""What this interpreter and machine offer, as one JSON line: `python -m sharelm.probe [FOLDER]`.

It runs in a process of its own, so that what asks never loads torch and a library that crashes on import is an answer.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

_SHARED_MEMORY = Path("/dev/shm")


def _disk(folder: Path) -> dict[str, Any]:
    while not folder.exists():  # the store's folder may not have been made yet
        folder = folder.parent
    return {"folder": str(folder), "free_bytes": shutil.disk_usage(folder).free}


def _torch() -> dict[str, Any]:
    try:
        import torch
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"version": torch.__version__, "gpus": names, "threads": torch.get_num_threads()}


def _deepspeed(gpu: bool) -> dict[str, Any]:
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if gpu else "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    try:
        import deepspeed
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"version": deepspeed.__version__}


def _pyarrow() -> dict[str, Any]:
    try:
        return {"version": version("pyarrow")}
    except PackageNotFoundError:
        return {"error": "not installed"}


def probe(store_folder: Path) -> dict[str, Any]:
    """Versions, devices, and free bytes of memory, of shared memory and of the disks that a study writes to.

    A library that cannot be imported has `error` in place of `version`.
    """
    memory = psutil.virtual_memory()
    torch = _torch()
    return {
        "python": platform.python_version(),
        "torch": torch,
        "deepspeed": _deepspeed(bool(torch.get("gpus"))),
        "pyarrow": _pyarrow(),
        "cpus": os.cpu_count(),
        "memory_bytes": memory.total,
        "available_memory_bytes": memory.available,
        "shared_memory": _disk(_SHARED_MEMORY) if _SHARED_MEMORY.exists() else None,  # Linux only
        "temporary": _disk(Path(tempfile.gettempdir())),
        "store": _disk(store_folder.absolute()),
    }


if __name__ == "__main__":
    answer = sys.stdout
    sys.stdout = sys.stderr  # libraries print while they are imported
    found = probe(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    print(json.dumps(found), file=answer)
