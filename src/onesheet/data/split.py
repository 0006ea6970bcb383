"""Train, validation and test by film: stratified over many labels, and never a near-copy on two sides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SPLITS: Final = ("train", "validation", "test")
FRACTIONS: Final = (0.8, 0.1, 0.1)

# Of 64 bits. On 6,531 posters every pair at 8 or less is one picture twice; strangers begin at 10.
NEAR_DISTANCE: Final = 8


def group_near_identical(hashes: NDArray[np.uint64], max_distance: int = NEAR_DISTANCE) -> NDArray[np.intp]:
    """Number the pictures so that near-identical ones (also through a third) share a number.

    Args:
        hashes: uint64 `[N]`, perceptual hashes.
        max_distance: Largest Hamming distance, in bits, of one picture to its near-copy.

    Returns:
        int `[N]`: for each picture the smallest index in its group.
    """
    group = np.arange(len(hashes))
    block = 512  # rows at a time: memory stays at block x N bytes
    for start in range(0, len(hashes), block):
        distance = np.bitwise_count(hashes[start : start + block, None] ^ hashes[None, :])
        for row, other in zip(*np.nonzero(distance <= max_distance), strict=True):
            first, second = group[start + row], group[other]
            if first != second:
                group[group == max(first, second)] = min(first, second)
    return group


def stratified_split(
    targets: NDArray[np.bool_],
    groups: NDArray[np.intp],
    seed: int,
    fractions: tuple[float, ...] = FRACTIONS,
    kept: NDArray[np.intp] | None = None,
) -> NDArray[np.intp]:
    """Assign each group to a split so that every genre is spread by `fractions`.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011), on groups instead of single samples: the
    rarest genre is dealt out first, each group to the split that lacks it most.

    Args:
        targets: bool `[N, G]`, which poster has which genre.
        groups: int `[N]`; posters of one group stay together.
        seed: Order in which groups are dealt, and how ties are broken.
        fractions: Share of each split; sums to 1.
        kept: int `[N]`, the split that a poster is in already, or -1. Where a group would be torn, all of it goes to
            the first of its splits: what was ever trained on is never judged by.

    Returns:
        int `[N]`, index into `fractions`.
    """
    rng = np.random.default_rng(seed)
    _, unit_of = np.unique(groups, return_inverse=True)
    units = unit_of.max(initial=-1) + 1
    labels = np.zeros((units, targets.shape[1]), dtype=np.int64)
    np.add.at(labels, unit_of, targets)
    sizes = np.bincount(unit_of, minlength=units)

    shares = np.array(fractions)
    lacking = shares[:, None] * labels.sum(axis=0)
    lacking_posters = shares * len(targets)
    order = rng.permutation(units)
    assigned = _kept_units(unit_of, units, kept)
    for split in range(len(shares)):
        lacking[split] -= labels[assigned == split].sum(axis=0)
        lacking_posters[split] -= sizes[assigned == split].sum()
    for genre in _rarest_first(labels, assigned):
        for unit in order[(assigned[order] < 0) & (labels[order, genre] > 0)]:
            split = _neediest(lacking[:, genre], lacking_posters, rng)
            assigned[unit] = split
            lacking[split] -= labels[unit]
            lacking_posters[split] -= sizes[unit]
    for unit in order[assigned[order] < 0]:  # without any genre
        assigned[unit] = split = _neediest(lacking_posters, lacking_posters, rng)
        lacking_posters[split] -= sizes[unit]
    return assigned[unit_of]


def _kept_units(unit_of: NDArray[np.intp], units: int, kept: NDArray[np.intp] | None) -> NDArray[np.intp]:
    """The split of each unit that has a poster with one already, and -1 for the others."""
    nowhere = np.iinfo(np.intp).max
    first = np.full(units, nowhere, np.intp)
    if kept is not None:
        np.minimum.at(first, unit_of, np.where(kept < 0, nowhere, kept))
    return np.where(first == nowhere, -1, first)


def _rarest_first(labels: NDArray[np.int64], assigned: NDArray[np.int64]) -> Iterator[int]:
    """The genre with the fewest posters that are not yet assigned, again and again until none is left."""
    while (left := labels[assigned < 0].sum(axis=0)).any():
        yield int(np.where(left > 0, left, np.iinfo(np.int64).max).argmin())


def _neediest(need: NDArray[np.float64], second: NDArray[np.float64], rng: np.random.Generator) -> int:
    """The split with the largest need; ties go to the second need, then to the dice."""
    best = np.flatnonzero(need == need.max())
    best = best[second[best] == second[best].max()]
    return int(rng.choice(best))
