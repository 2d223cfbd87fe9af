"""Placing pairs of events on the host's clock."""

from costtrace_tensorrt_llm.rank_side.gputime import DeviceClock, EventPool


class At:
    """An event of a GPU whose clock is not the host's."""

    def __init__(self, ns):
        self.ns = ns

    def elapsed_time(self, other):
        return (other.ns - self.ns) / 1_000_000


def placed(*pairs):
    clock = DeviceClock(EventPool(lambda: None))
    return [clock.place(At(start), At(end), recorded, seen) for start, end, recorded, seen in pairs]


def test_a_pair_lies_between_when_it_was_recorded_and_when_it_was_seen_done():
    (first,) = placed((50_000, 60_000, 1_000_000, 1_020_000))
    assert first == (1_000_000, 1_010_000)


def test_the_gpus_clock_counts_between_pairs():
    first, second = placed((0, 1_000, 500_000, 600_000), (5_000, 9_000, 500_100, 600_000))
    assert first == (500_000, 501_000)
    assert second == (505_000, 509_000)


def test_a_gpu_clock_that_runs_ahead_is_held_back_by_when_the_end_was_seen():
    (_, second) = placed((0, 1_000, 500_000, 501_000), (90_000, 95_000, 501_500, 510_000))
    assert second == (505_000, 510_000)


def test_a_gpu_clock_that_falls_behind_is_pushed_on_by_when_the_start_was_recorded():
    (_, second) = placed((0, 1_000, 500_000, 501_000), (2_000, 3_000, 700_000, 900_000))
    assert second == (700_000, 701_000)
