"""Which kind of batch is chosen, against a made-up broker whose costs change."""

import random
from dataclasses import dataclass

import pytest

from shared.messaging.batch_choice import (
    BUDGET_PERIOD,
    FEW,
    FIRST,
    TRIAL_EVERY,
    TRIAL_MAX,
    TRIAL_SHARE,
    BatchStrategy,
)


@dataclass
class MadeUp:
    """A broker, and a publisher with so many messages whenever it looks. Costs in seconds."""

    fast_each: float = 10e-6
    atomic_setup: float = 0.003
    atomic_each: float = 10e-6
    waiting: tuple[int, int] = (1000, 1000)

    def cost(self, atomic: bool, count: int) -> float:
        return self.atomic_setup + count * self.atomic_each if atomic else 0.0001 + count * self.fast_each


class Publisher:
    def __init__(self, seed: int = 1) -> None:
        self.batching = BatchStrategy()
        self.random = random.Random(seed)
        self.now = 0.0
        self.sent: list[tuple[bool, bool, int, float]] = []
        """Of each batch: atomic, trial, messages, seconds."""

    def send(self, broker: MadeUp, groups: int, noise: float = 0.3) -> None:
        for _ in range(groups):
            left = self.random.randint(*broker.waiting)
            while left > 1:
                batch = self.batching.choose(left, self.now)
                assert 1 <= batch.size <= left
                took = broker.cost(batch.atomic, batch.size) * (1 + self.random.expovariate(1) * noise)
                self.now += took
                self.batching.took(batch, took, self.now)
                self.sent.append((batch.atomic, batch.trial, batch.size, took))
                left -= batch.size


NO_SYNC = MadeUp()
SYNC = MadeUp(fast_each=0.0002)


def atomic_share(publisher: Publisher, of_last: int) -> float:
    return sum(atomic for atomic, *_ in publisher.sent[-of_last:]) / of_last


@pytest.mark.parametrize("first", ["slow", "as ever"])
def test_a_slow_first_batch_is_not_held_against_its_kind_for_ever(first: str) -> None:
    publisher = Publisher()
    batch = publisher.batching.choose(1000, 0.0)
    publisher.batching.took(batch, 0.5 if first == "slow" else 0.001, 0.0)
    publisher.send(NO_SYNC, 50)
    assert atomic_share(publisher, 20) < 0.2
    publisher.send(NO_SYNC, 1000)
    assert atomic_share(publisher, 900) < 0.03


def test_what_is_faster_by_now_is_found_out_whichever_way_it_changes() -> None:
    publisher = Publisher()
    for _ in range(3):
        publisher.send(NO_SYNC, 500)
        assert atomic_share(publisher, 200) < 0.05
        publisher.send(SYNC, 500)
        assert atomic_share(publisher, 200) > 0.9


def test_a_disk_that_is_too_slow_for_the_first_batch_is_spared_with_the_next() -> None:
    batching = BatchStrategy()
    batch = batching.choose(1000, 0.0)
    assert (batch.atomic, batch.size) == (False, FIRST)
    batching.took(batch, 5.0, 5.0)
    assert batching.choose(1000, 5.0).atomic


def test_a_trial_on_a_slow_disk_is_small_enough_to_be_stored_in_time() -> None:
    publisher, disk = Publisher(), MadeUp(fast_each=0.005)
    publisher.send(disk, 2000)
    trials = [took for _, trial, count, took in publisher.sent if trial]
    assert len(trials) > 3
    assert max(trials) < 10 * TRIAL_MAX, "2,000 messages would take ten seconds"


def test_a_few_messages_are_never_worth_setting_up_a_batch_as_a_whole() -> None:
    batching = BatchStrategy()
    for n in range(500):
        batch = batching.choose(FEW - 1, n)
        assert (batch.atomic, batch.size) == (False, FEW - 1)
        batching.took(batch, 1.0, n)


def test_times_of_long_ago_do_not_count_where_there_are_newer_ones() -> None:
    publisher = Publisher()
    publisher.send(NO_SYNC, 300)
    publisher.now += 3600
    publisher.send(SYNC, 20)
    assert atomic_share(publisher, 15) > 0.8


@pytest.mark.parametrize("seed", range(4))
def test_it_always_comes_back_to_the_faster_one_and_tries_seldom(seed: int) -> None:
    publisher, choice = Publisher(seed), random.Random(seed)
    for _ in range(3):
        broker = MadeUp(
            fast_each=choice.choice([8e-6, 30e-6, 100e-6, 300e-6, 0.003]),
            atomic_setup=choice.choice([0.0005, 0.003, 0.01, 0.1]),
            atomic_each=choice.choice([10e-6, 20e-6, 50e-6]),
            waiting=choice.choice([(1000, 1000), (20, 60), (200, 300)]),
        )
        until = publisher.now + 15  # what dear trials of the phase before have taken is to be made up for
        while publisher.now < until and len(publisher.sent) < 6000:
            publisher.send(broker, 100, noise=0.1)
        publisher.sent.clear()
        publisher.send(broker, 300, noise=0.1)
        spent = sum(took for *_, took in publisher.sent)
        best = sum(min(broker.cost(a, n) for a in (False, True)) * 1.1 for *_, n, _ in publisher.sent)
        assert spent < best * 1.3, (broker, spent / best)
        trials = [took for _, trial, _, took in publisher.sent if trial]
        assert len(trials) <= len(publisher.sent) / TRIAL_EVERY + 7
        assert sum(trials) <= TRIAL_SHARE * (2 * BUDGET_PERIOD + spent) + max(trials, default=0)
