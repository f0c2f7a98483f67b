"""A process that commits: `python -m tests.sharelm.store_writer race|forever|few|report|refused URI WHO`."""

import sys

from sharelm.errors import StoreError
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


def few(store, who):
    """Commit some steps, the first of which may be there; fetch them, and print which are listed."""
    for step in ("1", "2", "3"):
        manifest = store.commit("tokens", who, step, {"x": b"elsewhere"})
        assert store.fetch(manifest, "x").read_bytes() == store.read_bytes(manifest, "x")
    store.commit_rows("scores", who, "2", rows_of("scores", 5))
    print(*(manifest.step for manifest in store.manifests("tokens", who)))


def report(store, who):
    """Commit a report."""
    store.commit("reports", who, "elsewhere", {"x": b"elsewhere"})


def refused(store, who):
    """Print the sentence with which each of these operations fails."""
    for operation in (
        store.check_writable,
        lambda: store.find("tokens", who, "1"),
        lambda: store.manifests("tokens", who),
        lambda: store.attempt("tokens", who, "2").put("x", b"elsewhere"),
    ):
        try:
            operation()
        except StoreError as error:
            print(error)


if __name__ == "__main__":
    {action.__name__: action for action in (race, forever, few, report, refused)}[sys.argv[1]](
        open_store(sys.argv[2]), sys.argv[3]
    )
