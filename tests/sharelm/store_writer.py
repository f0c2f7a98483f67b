"""A process that commits: `python -m tests.sharelm.store_writer race|forever URI WHO`."""

import sys

from sharelm.store import open_store
from tests.sharelm.store_helpers import rows_of


def race(store, who):
    """Commit one step, after a line on stdin lets every racer go at once."""
    content = f"by {who}\n".encode() * 1000
    store.check_writable()
    print("ready", flush=True)
    sys.stdin.readline()
    print(store.commit("tokens", "race", "a1", {"x": content, "y": content}).attempt, flush=True)


def forever(store, who):
    """Commit steps of two files and of rows until somebody kills this process."""
    store.check_writable()  # connects, so that the kill meets a commit and not an import
    print("ready", flush=True)
    for number in range(10**9):
        content = f"{number}\n".encode() * 20_000
        store.commit("tokens", who, f"{number:06}", {"x": content, "y": content})
        store.commit_rows("scores", who, f"{number:06}", rows_of("scores", 50, start=number))


if __name__ == "__main__":
    {"race": race, "forever": forever}[sys.argv[1]](open_store(sys.argv[2]), sys.argv[3])
