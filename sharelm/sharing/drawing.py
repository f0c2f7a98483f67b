"""A sharing for a reader: which depth reads which block, and its degrees in words."""

from __future__ import annotations

from sharelm.sharing.shape import KINDS
from sharelm.sharing.value import Sharing


def draw(sharing: Sharing) -> str:
    """A grid of stored blocks over depths, and a row for each degree that belongs to some depths only.

    `■` is a depth that reads this block for both kinds, `A` for attention alone, `F` for feed-forward alone.
    """
    depths = range(sharing.depth)
    rows = [("depth", [str(depth) for depth in depths])]
    for block in range(max(max(sharing.groups(kind)) + 1 for kind in KINDS)):
        marks = {(True, True): "■", (True, False): "A", (False, True): "F", (False, False): "·"}
        read = zip(sharing.attention, sharing.feed_forward, strict=True)
        rows.append((f"block {block}", [marks[attention == block, other == block] for attention, other in read]))
    changed = {d for kind in KINDS if _has_deltas(sharing, kind) for d in sharing.looped_depths(kind)}
    if changed:
        rows.append(("delta", ["Δ" if depth in changed else "·" for depth in depths]))
    if sharing.injection != "none":
        later = sharing.loop_starts[1:]
        rows.append(("injection", ["↓" if depth in later else "·" for depth in depths]))
    if sharing.kv == "first":
        rows.append(("keys of", [str(sharing.first_reading(depth)) for depth in depths]))
    if sharing.late:
        rows.append((f"after {sharing.late:.0%}", ["·" if d in sharing.plain_depths else "+" for d in depths]))
    width = max(len(cell) for _, cells in rows for cell in cells)
    margin = max(len(label) for label, _ in rows)
    lines = [f"{label:<{margin}}  {' '.join(f'{cell:>{width}}' for cell in cells)}" for label, cells in rows]
    return "\n".join([*lines, *(f"{'':<{margin}}  {line}" for line in degrees(sharing))])


def _has_deltas(sharing: Sharing, kind: str) -> bool:
    return sharing.rank(kind) > 0 or kind in sharing.diagonal


def degrees(sharing: Sharing) -> list[str]:
    """What the sharing has beyond its schedules, a clause each."""
    said, start = [], {"zero": "zeros", "svd": "truncated SVD"}[sharing.low_rank.start]
    for kind in KINDS:
        if sharing.rank(kind):
            scale = getattr(sharing.low_rank, f"{kind}_scale")
            times = "" if scale == 1 else f" x {scale:g}"
            said.append(f"{_words(kind)}: low-rank deltas of rank {sharing.rank(kind)}{times}, started by {start}")
        if kind in sharing.diagonal:
            said.append(f"{_words(kind)}: diagonal deltas")
        if sharing.coefficients(kind) != "none":
            said.append(f"{_words(kind)}: {sharing.blocks(kind)} atoms, coefficients {sharing.coefficients(kind)}")
        if kind in sharing.ties:
            said.append(
                f"{_words(kind)}: {', '.join(f'{one} = {other}^T' for one, other in sharing.tied(kind).items())}"
            )
    if sharing.norms == "per_depth":
        said.append("norm gains of each depth")
    if sharing.depth_embedding:
        said.append("depth embeddings")
    if sharing.injection != "none":
        said.append(f"{sharing.injection} injection into every later loop")
    if sharing.streams > 1:
        said.append(f"{sharing.streams} streams with hyper-connections")
    if sharing.embedding.width:
        said.append(f"embedding of width {sharing.embedding.width}")
    if sharing.embedding.head == "untied":
        said.append("head not tied to the embedding")
    if sharing.kv != "exact":
        said.append(f"keys and values of the {sharing.kv} loop for all")
    if sharing.soft.on:
        final = "" if sharing.soft.final_weight is None else f" to {sharing.soft.final_weight:g}"
        said.append(f"not shared but pulled together by a penalty of weight {sharing.soft.weight:g}{final}")
    if sharing.late:
        said.append(f"loops from {sharing.late:.0%} of training on")
    return said


def _words(kind: str) -> str:
    return kind.replace("_", "-")
