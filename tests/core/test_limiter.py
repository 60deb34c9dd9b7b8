"""The token bucket holds its rate whatever the callers do, and the meter sees it when something does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibit.core.limiter import (
    RateMeter,
    TokenBucket,
    burst_bytes,
    chunk_bytes,
    peak_limit_bytes,
    total_limit_bytes,
)

KIB = 1024
rates = st.floats(min_value=10.0, max_value=1e9)
# (idle seconds before the call, lateness of the wake-up, share of a chunk)
demands = st.lists(
    st.tuples(st.floats(0, 2), st.floats(0, 0.02), st.floats(0.01, 1.0)),
    min_size=1,
    max_size=80,
)


def sends_of(bucket, demands, clock_s=0.0):
    """One sender that idles, takes, waits (waking late) and sends: the (time, bytes) that leave."""
    sends = []
    for idle_s, late_s, share in demands:
        clock_s += idle_s
        n_bytes = max(1, int(bucket.chunk_bytes * share))
        wait_s = bucket.take(n_bytes, clock_s)
        clock_s += wait_s + (late_s if wait_s else 0.0)
        sends.append((clock_s, n_bytes))
    return sends


@pytest.mark.parametrize(
    ("rate", "burst", "chunk"),
    [
        (8_000_000, 400_000, 64 * KIB),
        (1_000_000, 50_000, 50_000),
        (200_000, 16 * KIB, 10_000),
        (20_000, 2_000, 1_000),
        (5, 0.5, 1),
    ],
)
def test_burst_and_chunk_follow_the_rate(rate, burst, chunk):
    """The two sizes decide how smooth a capped link is, so they are pinned over the whole range of rates."""
    assert burst_bytes(rate) == pytest.approx(burst)
    assert chunk_bytes(rate) == chunk


def test_a_new_bucket_is_empty():
    """A bucket that started full would let every peer beat the bound at the start of a run."""
    assert TokenBucket(1000.0).take(100, now_s=5.0) == pytest.approx(0.1)


def test_waiting_for_the_start_signal_earns_nothing():
    """The time between building a peer and its first byte is the launcher's, not the link's."""
    assert TokenBucket(1000.0).take(50, now_s=1e6) == pytest.approx(0.05)


def test_tokens_that_exist_cost_no_wait():
    """A link that idled may send its burst at once, or the late wake-up of a thread would cost throughput."""
    bucket = TokenBucket(1_000_000.0)
    bucket.take(0, now_s=0.0)
    assert bucket.take(50_000, now_s=1.0) == 0.0


def test_idling_earns_one_burst_at_most():
    """An hour of idling must not buy an hour's worth of bytes in one second."""
    bucket = TokenBucket(1_000_000.0)
    bucket.take(0, now_s=0.0)
    assert bucket.take(150_000, now_s=3600.0) == pytest.approx(0.1)


def test_callers_are_served_in_the_order_of_their_calls():
    """A debt queue is first in, first out: nobody who asks often overtakes who asked before."""
    bucket = TokenBucket(1000.0)
    assert [bucket.take(100, now_s=0.0) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_a_clock_drawn_out_of_order_earns_nothing_twice():
    """Two threads may draw the clock in one order and take in the other; both still wait for the same instants."""
    bucket = TokenBucket(1000.0)
    bucket.take(100, now_s=1.0)
    assert bucket.take(100, now_s=0.5) == pytest.approx(0.7)
    assert bucket.take(100, now_s=1.0) == pytest.approx(0.3)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_no_rate_is_refused(rate):
    """Unlimited is the absence of a bucket, and a link of rate zero would wait for ever."""
    with pytest.raises(ValueError, match="positive and finite"):
        TokenBucket(rate)


def test_negative_amounts_are_refused():
    """A negative take would be an allowance from nowhere."""
    bucket = TokenBucket(10.0)
    with pytest.raises(ValueError, match="cannot take -1"):
        bucket.take(-1, 0.0)


@given(rates, demands)
def test_one_sender_keeps_the_cap_however_it_idles_and_wakes(rate, demands):
    """The test of a leaking cap must hold for every pattern of demand, or valid runs would be thrown away."""
    bucket = TokenBucket(rate)
    meter = RateMeter()
    sends = sends_of(bucket, demands)
    for at_s, n_bytes in sends:
        meter.add(n_bytes, at_s)
    duration_s = sends[-1][0] - demands[0][0]  # the first take starts the bucket
    assert meter.peak_bytes_per_window <= peak_limit_bytes(rate)
    assert meter.total_bytes <= total_limit_bytes(rate, duration_s)


@given(rates, st.lists(st.tuples(st.integers(1, 100_000), st.floats(0, 0.2)), min_size=1, max_size=60))
def test_readiness_never_runs_ahead_of_what_was_earned(rate, takes):
    """Whatever many callers take at once, by the time a take is ready the link has earned all bytes before it."""
    bucket = TokenBucket(rate)
    now_s, taken, first_s = 0.0, 0, takes[0][1]
    for n_bytes, pause_s in takes:
        now_s += pause_s
        taken += n_bytes
        ready_s = now_s + bucket.take(n_bytes, now_s)
        assert taken <= (rate * (ready_s - first_s) + bucket.burst_bytes) * (1 + 1e-9) + 1e-6


@given(rates, st.lists(st.integers(1, 10_000), min_size=1, max_size=50))
def test_a_busy_link_runs_at_its_full_rate(rate, sizes):
    """A limiter that waits longer than it must would be blamed on the protocol."""
    bucket = TokenBucket(rate)
    now_s = 0.0
    for n_bytes in sizes:
        now_s += bucket.take(n_bytes, now_s)
    assert now_s == pytest.approx(sum(sizes) / rate)


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 1000)), min_size=1, max_size=60))
def test_the_meter_agrees_with_counting_every_window(steps):
    """The amortised window must equal the definition: the most bytes in (t - 1 s, t] over all t."""
    meter = RateMeter()
    at_s, events = 0.0, []
    for pause_s, n_bytes in steps:
        at_s += pause_s
        events.append((at_s, n_bytes))
        meter.add(n_bytes, at_s)
    peak = max(sum(n for when, n in events if end - 1.0 < when <= end) for end, _ in events)
    assert meter.peak_bytes_per_window == peak
    assert meter.total_bytes == sum(n for _, n in events)


def test_a_meter_needs_a_window():
    """A window of no length would report a peak of one event and look like a respected cap."""
    with pytest.raises(ValueError, match="window"):
        RateMeter(0.0)
