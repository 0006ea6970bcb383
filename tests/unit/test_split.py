"""The split: stratified, by group, a pure function of data and seed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onesheet.data.split import FRACTIONS, group_near_identical, stratified_split


def _targets(films: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.random((films, 5)) < np.array([0.5, 0.3, 0.1, 0.03, 0.01])


def test_every_genre_is_spread_by_the_fractions():
    targets = _targets(4000)
    split = stratified_split(targets, np.arange(4000), seed=1)
    for index, fraction in enumerate(FRACTIONS):
        shares = targets[split == index].sum(axis=0) / targets.sum(axis=0)
        assert np.abs(shares - fraction).max() < 0.03
        assert abs((split == index).mean() - fraction) < 0.01


def test_same_seed_same_split_and_other_seed_other_split():
    targets, groups = _targets(500), np.arange(500)
    first = stratified_split(targets, groups, seed=1)
    assert (first == stratified_split(targets, groups, seed=1)).all()
    assert (first != stratified_split(targets, groups, seed=2)).any()


@given(seed=st.integers(0, 1000), films=st.integers(1, 60), groups=st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_a_group_is_never_torn_apart(seed, films, groups):
    group = np.random.default_rng(seed).integers(0, groups, films)
    split = stratified_split(_targets(films, seed), group, seed)
    assert ((split >= 0) & (split < 3)).all()
    for number in np.unique(group):
        assert len(np.unique(split[group == number])) == 1


def test_films_without_genre_are_dealt_out_too():
    split = stratified_split(np.zeros((100, 3), bool), np.arange(100), seed=0)
    assert np.bincount(split).tolist() == [80, 10, 10]


def test_near_identical_pictures_are_grouped_also_through_a_third():
    original = 0x0F0F_F0F0_1234_5678
    hashes = np.array([original, original ^ 0xFF, original ^ 0xFFFF, ~original & (2**64 - 1)], dtype=np.uint64)
    assert group_near_identical(hashes).tolist() == [0, 0, 0, 3]
    assert group_near_identical(hashes, max_distance=7).tolist() == [0, 1, 2, 3]


def test_groups_reach_across_blocks():
    hashes = np.random.default_rng(0).integers(0, 2**63, 1500, dtype=np.uint64)
    hashes[1400] = hashes[3]
    group = group_near_identical(hashes, max_distance=0)
    assert group[1400] == group[3] == 3
    assert len(np.unique(group)) == 1499


def test_a_film_that_is_in_a_split_stays_there_and_new_ones_even_out_the_shares():
    targets = _targets(4400)
    before = stratified_split(targets[:4000], np.arange(4000), seed=1)
    kept = np.concatenate([before, np.full(400, -1)])
    after = stratified_split(targets, np.arange(4400), seed=1, kept=kept)
    assert (after[:4000] == before).all()
    for index, fraction in enumerate(FRACTIONS):
        assert abs((after == index).mean() - fraction) < 0.01
        assert abs((after[4000:] == index).mean() - fraction) < 0.03


def test_what_was_trained_on_is_not_judged_by_when_a_new_film_joins_two_groups():
    groups = np.array([0, 0, 0, 3, 3, 5])
    after = stratified_split(np.ones((6, 1), bool), groups, seed=0, kept=np.array([2, -1, 0, 2, 1, -1]))
    assert after[:5].tolist() == [0, 0, 0, 1, 1]
