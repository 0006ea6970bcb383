"""Every poster once an epoch, in one process; the order is a function of seed and epoch."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from onesheet.data.sampling import ShardSampler


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_validation_posters_are_shared_out_completely_and_without_doubles(world):
    shards = [list(ShardSampler(652, rank=rank, world=world, shuffle=False)) for rank in range(world)]
    assert sorted(index for shard in shards for index in shard) == list(range(652))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_training_posters_are_shared_out_evenly_and_without_doubles(world):
    samplers = [ShardSampler(652, rank=rank, world=world, shuffle=True, seed=3) for rank in range(world)]
    shards = [list(sampler) for sampler in samplers]
    assert {len(shard) for shard in shards} == {652 // world} == {len(sampler) for sampler in samplers}
    together = [index for shard in shards for index in shard]
    assert len(set(together)) == len(together)


def test_the_order_is_new_every_epoch_and_the_same_every_time():
    def order(epoch: int) -> list[int]:
        sampler = ShardSampler(100, shuffle=True, seed=3)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0) != order(1)
    assert order(4) == order(4)


def test_whoever_sat_out_one_epoch_comes_in_another():
    seen = set()
    for epoch in range(20):
        sampler = ShardSampler(5, rank=0, world=2, shuffle=True)
        other = ShardSampler(5, rank=1, world=2, shuffle=True)
        sampler.set_epoch(epoch)
        other.set_epoch(epoch)
        seen |= {*sampler, *other}
    assert seen == set(range(5))
