"""The split into training and held-out documents: by hash, with near-duplicates in the same split."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharelm.data.documents import Document, draw
from sharelm.data.workers import spread

_WORD = re.compile(r"\w+")
_SHINGLE_WORDS = 5
_PERMUTATIONS = 128
_MISS = 1e-6  # at most this chance that a pair at the similarity asked for never meets in a bucket
_CHUNK = 1 << 12  # shingles hashed at once: 2 MB under 128 permutations, which a core's cache holds
_PRECEDENCE = ("validation", "training", "auto")
_MULTIPLIERS = np.random.RandomState(5).randint(1, 2**63, _SHINGLE_WORDS, dtype=np.uint64) | np.uint64(1)


@dataclass(frozen=True)
class SplitDocuments:
    """The two splits, each in ascending order of digest, and counts of dropped and clustered documents."""

    training: list[Document]
    validation: list[Document]
    exact_duplicates_dropped: int
    near_duplicates_dropped: int  # of a validation document whose source fixes its split
    near_duplicate_clusters: int
    near_duplicate_documents: int  # in those clusters


class _WordHashes(dict[str, int]):
    def __missing__(self, word: str) -> int:
        self[word] = value = zlib.crc32(word.encode())
        return value


def _shingles(text: str, words: _WordHashes) -> NDArray[np.uint32]:
    """Sorted unique 32-bit hashes of every five consecutive words; one of the whole text if it has fewer words."""
    found = _WORD.findall(text.lower())
    found += [""] * (_SHINGLE_WORDS - len(found))
    hashes = np.fromiter(map(words.__getitem__, found), np.uint64, len(found))
    windows = np.lib.stride_tricks.sliding_window_view(hashes, _SHINGLE_WORDS)
    shingles = (windows @ _MULTIPLIERS >> np.uint64(32)).astype(np.uint32)
    shingles.sort()
    different: NDArray[np.bool_] = shingles[1:] != shingles[:-1]
    unique: NDArray[np.uint32] = shingles[np.append(True, different)]
    return unique


def sketches(texts: list[str]) -> list[tuple[NDArray[np.uint32], NDArray[np.uint32]]]:
    """The shingles of each text and their MinHash values."""
    from datasketch import MinHash  # slow to import, and only who builds a corpus needs it

    words, empty = _WordHashes(), MinHash(num_perm=_PERMUTATIONS, hashfunc=int)
    found = []
    for text in texts:
        own, sketch = _shingles(text, words), empty.copy()
        for start in range(0, len(own), _CHUNK):
            sketch.update_batch(own[start : start + _CHUNK].tolist())
        found.append((own, sketch.hashvalues))
    return found


def _bands(similarity: float) -> tuple[int, int]:
    """Bands, and rows in a band, with the fewest candidates that miss a pair this similar with at most `_MISS`."""
    for rows in range(_PERMUTATIONS, 1, -1):
        bands = _PERMUTATIONS // rows
        if (1 - similarity**rows) ** bands <= _MISS:
            return bands, rows
    return _PERMUTATIONS, 1


def _similarity(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def near_duplicates(texts: Sequence[str], similarity: float, pool: Executor | None = None) -> list[list[int]]:
    """Clusters of texts, as positions, linked by pairs whose word 5-grams have at least this Jaccard similarity.

    MinHash proposes pairs and the shingles decide, so no pair below the similarity is linked.
    """
    from datasketch import MinHash, MinHashLSH
    from scipy.cluster.hierarchy import DisjointSet

    sketch = MinHash(num_perm=_PERMUTATIONS)
    index = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(similarity))
    shingles: list[NDArray[np.uint32]] = []
    clusters = DisjointSet(range(len(texts)))
    for position, (own, values) in enumerate(spread(sketches, texts, pool)):
        sketch.hashvalues = values
        for candidate in sorted(index.query(sketch)):
            if not clusters.connected(position, candidate) and _similarity(own, shingles[candidate]) >= similarity:
                clusters.merge(position, candidate)
        index.insert(position, sketch, check_duplication=False)
        shingles.append(own)
    return sorted(sorted(subset) for subset in clusters.subsets() if len(subset) > 1)


def _distinct(documents: Iterable[Document]) -> tuple[list[Document], int]:
    """One document for each digest, in ascending order; of several by `_PRECEDENCE`, domain and text."""
    same: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        same[document.digest].append(document)
    kept = [
        min(same[digest], key=lambda each: (_PRECEDENCE.index(each.split), each.domain, each.text))
        for digest in sorted(same)
    ]
    return kept, sum(map(len, same.values())) - len(kept)


def split_documents(
    documents: Iterable[Document],
    validation_fraction: float,
    near_duplicate_similarity: float,
    pool: Executor | None = None,
) -> SplitDocuments:
    """Drop exact duplicates, then put every cluster of near-duplicates into one split as a whole.

    The draw of a cluster's smallest digest decides, unless a source fixes the split of one of its documents. If one
    is fixed to validation, the documents of the cluster that are not are dropped; otherwise one fixed to training
    takes the cluster to training.
    """
    kept, exact = _distinct(documents)
    close = near_duplicates([document.text for document in kept], near_duplicate_similarity, pool)
    clustered = {position for cluster in close for position in cluster}
    clusters = [*close, *([position] for position in range(len(kept)) if position not in clustered)]
    sides: dict[str, list[Document]] = {"training": [], "validation": []}
    dropped = 0
    for cluster in clusters:
        members = [kept[position] for position in cluster]
        fixed = min((member.split for member in members), key=_PRECEDENCE.index)
        if fixed == "validation":
            held_out = [member for member in members if member.split == "validation"]
            dropped += len(members) - len(held_out)
            sides["validation"] += held_out
        elif fixed == "training" or draw(members[0].digest, "split") >= validation_fraction:
            sides["training"] += members
        else:
            sides["validation"] += members
    for side in sides.values():
        side.sort(key=lambda document: document.digest)
    return SplitDocuments(
        training=sides["training"],
        validation=sides["validation"],
        exact_duplicates_dropped=exact,
        near_duplicates_dropped=dropped,
        near_duplicate_clusters=len(close),
        near_duplicate_documents=len(clustered),
    )
