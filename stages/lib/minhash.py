"""Pairs of texts that are alike, by the pieces that they share: found with MinHash, then verified exactly.

MinHash after Broder 1997, banded (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4): the chance that two
texts of similarity s become candidates is 1 - (1 - s^rows)^bands.
"""

from collections.abc import Iterator

import numpy as np
import xxhash
from numpy.typing import NDArray
from tqdm import tqdm

from stages.lib.words import Hashes, Numbers, Words, distinct, mix

Pairs = NDArray[np.int64]  # [n, 2]: numbers of texts, the earlier first
Shares = NDArray[np.float64]

_REACH = 20  # rows of one bucket are paired with the first of it and the 20 before; all pairs would be quadratic
_CELLS = 1 << 16  # hashes under way at once in `_signatures`: few enough to stay in a processor's cache
_PAIRS = 14  # bits: so many pairs are verified at once, the other bits of a key are the piece's


def candidates(pieces: Words, bands: int, rows: int) -> Pairs:
    """Pairs of texts that are likely to be alike: in some band, all `rows` of their MinHash values are the same."""
    if len(pieces) < 2:
        return np.empty((0, 2), dtype=np.int64)
    signatures = _signatures(pieces, bands * rows)
    codes = np.empty(0, dtype=np.int64)
    for band in range(bands):  # one after another: the same pairs come back in every band where texts are repeated
        found = _within_buckets(signatures[band * rows : (band + 1) * rows])
        codes = distinct(np.concatenate([codes, *(earlier * len(pieces) + later for earlier, later in found)]))
    return np.stack(np.divmod(codes, len(pieces)), axis=1)


def _signatures(pieces: Words, count: int) -> NDArray[np.uint32]:
    """MinHash: [count, texts], for each hash function the smallest value among a text's pieces (multiply-shift).

    Texts of about one length are laid side by side, the shorter ones filled up with their last piece.
    """
    hashes = (pieces.hashes >> np.uint64(32)).astype(np.uint32)
    lengths = np.diff(pieces.starts)
    factors, shifts = (
        np.array([xxhash.xxh3_64_intdigest(f"{name} {n}".encode()) & 0xFFFFFFFF for n in range(count)], np.uint32)
        for name in ("factor", "shift")
    )
    signatures = np.empty((count, len(pieces)), dtype=np.uint32)
    order = np.argsort(-lengths, kind="stable")
    begin = 0
    with tqdm(total=len(order), desc="compare", unit=" rows", disable=None, leave=False) as bar:
        while begin < len(order):
            longest = int(lengths[order[begin]])
            texts = order[begin : begin + max(1, _CELLS // longest)]
            places = np.minimum(np.arange(longest)[:, None], lengths[texts] - 1) + pieces.starts[texts]
            block = hashes[places]
            values = np.empty_like(block)
            for number in range(count):
                np.multiply(block, factors[number] | np.uint32(1), out=values)
                values += shifts[number]
                signatures[number, texts] = values.min(axis=0)
            begin += len(texts)
            bar.update(len(texts))
    return signatures


def _within_buckets(band: NDArray[np.uint32]) -> Iterator[tuple[Numbers, Numbers]]:
    """Texts that agree in every row of a band, as earlier and later ones."""
    bucket = np.zeros(band.shape[1], dtype=np.uint64)
    for row in band:
        bucket = mix(bucket * np.uint64(31) + row)
    # Sorted by bucket, and within one by text. Half of the bucket's bits are enough: every pair is verified.
    keys = np.sort((bucket >> np.uint64(32) << np.uint64(32)) | np.arange(len(bucket), dtype=np.uint64))
    bucket, texts = keys >> np.uint64(32), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    is_same = bucket[1:] == bucket[:-1]
    is_shared = np.append(is_same, False) | np.append(False, is_same)
    bucket, texts = bucket[is_shared], texts[is_shared]
    if not len(texts):
        return
    opens = np.append(True, bucket[1:] != bucket[:-1])
    first = np.maximum.accumulate(np.where(opens, np.arange(len(texts)), 0))
    yield texts[first[~opens]], texts[~opens]
    for reach in range(1, _REACH + 1):
        both = np.flatnonzero(bucket[reach:] == bucket[:-reach])
        yield texts[both], texts[both + reach]


def jaccard(pieces: Words, pairs: Pairs) -> Shares:
    """For each pair: the pieces that both texts hold, as a share of those that either holds."""
    shares = np.ones(len(pairs))
    differ = np.arange(len(pairs))
    if len(pairs) > len(pieces):  # then many are the same text twice, as where one question is asked 100,000 times
        names = pieces.fingerprints()
        differ = np.flatnonzero(names[pairs[:, 0]] != names[pairs[:, 1]])
    for start in range(0, len(differ), 1 << _PAIRS):
        chunk = differ[start : start + (1 << _PAIRS)]
        shares[chunk] = _jaccard(pieces, pairs[chunk])
    return shares


def _jaccard(pieces: Words, pairs: Pairs) -> Shares:
    earlier, later = (_distinct(pieces, texts) for texts in pairs.T)
    both = np.sort(np.concatenate([earlier, later]))
    shared = both[1:][both[1:] == both[:-1]]
    counts = [
        np.bincount((keys >> np.uint64(64 - _PAIRS)).astype(np.int64), minlength=len(pairs)) for keys in (both, shared)
    ]
    return counts[1] / (counts[0] - counts[1])


def _distinct(pieces: Words, texts: Numbers) -> Hashes:
    """The pieces of the texts, each once: the place in `texts` in the upper bits, sorted."""
    taken = pieces.take(texts)
    owners = taken.owners().astype(np.uint64)
    return distinct((owners << np.uint64(64 - _PAIRS)) | (taken.hashes >> np.uint64(_PAIRS)))
