"""The generator against numbers that Go prints; they are in the first pages of many a text on Go."""

from __future__ import annotations

from dujiang.scheduling.simulator.go_random import GoRandom


def test_seed_one_gives_the_numbers_that_every_program_without_a_seed_printed() -> None:
    chance = GoRandom(1)
    assert [chance.below(100) for _ in range(10)] == [81, 87, 47, 59, 81, 18, 25, 40, 56, 0]
    assert GoRandom(1).int63() == 5577006791947779410


def test_shuffles_and_permutations_hold_everything_once_and_follow_from_the_seed() -> None:
    for size in (1, 2, 64, 1000):
        values = list(range(size))
        GoRandom(7).shuffle(values)
        assert sorted(values) == sorted(GoRandom(7).permutation(size)) == list(range(size))
        again = list(range(size))
        GoRandom(7).shuffle(again)
        assert again == values
    assert GoRandom(7).permutation(50) != GoRandom(8).permutation(50)


def test_a_power_of_two_takes_the_low_bits() -> None:
    chance, same = GoRandom(3), GoRandom(3)
    assert [chance.below(64) for _ in range(20)] == [(same.int63() >> 32) % 64 for _ in range(20)]
