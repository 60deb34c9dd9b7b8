"""Both protocols as a load test speaks them, against MiniBit's own service and against malformed answers."""

import contextlib
import random

import pytest

from minibit.load.dialects import Bep3, Rest, WrongAnswerError
from minibit.load.population import Answer, Kind, Population
from minibit.load.source import TrackerSource
from minibit.tracker import TrackerApp


def ask(client, request):
    target, _, query = request.target.partition("?")
    environ = {"REMOTE_ADDR": "127.0.0.1"}
    return client.open(
        target,
        method=request.method,
        query_string=query,
        data=request.body or None,
        headers=dict(request.headers),
        environ_overrides=environ,
    )


@pytest.mark.parametrize("protocol", ["rest", "bep3"])
def test_minibits_tracker_answers_a_whole_population_without_a_fault(protocol):
    """3,000 requests through the real application; afterwards nobody is left in it."""
    tracker = TrackerApp("127.0.0.1", 0, rng_seed=1)
    client = tracker.app.test_client()
    source = TrackerSource(Population(1, size=150, swarms=20), protocol)
    names = set()
    for number in range(3000):
        job = source.next(number / 1000)
        response = ask(client, job.request)
        name, problem = source.judge(job, response.status_code, response.data)
        assert problem is None
        names.add(name.partition(" ")[0])
    assert names == ({"/register", "/peers"} if protocol == "rest" else {"/announce", "/scrape"})
    while (job := source.leave(0.0)) is not None:
        response = ask(client, job.request)
        assert source.judge(job, response.status_code, response.data)[1] is None
    assert tracker.service.stats()["peers"] == 0
    assert source.remarks() == []


def action_of(kind, numwant=50):
    population = Population(1, size=1, swarms=1)
    action = population.next(0.0)
    action.kind, action.numwant = kind, numwant
    return action


@pytest.mark.parametrize("dialect", [Rest(), Bep3()])
@pytest.mark.parametrize(
    "body", [b"", b"{}", b"d", b"\xff\xfe", b"[1]", b"d5:peers3:abce", b"i1e", b"le", b"d5:peersi4ee"]
)
def test_a_malformed_answer_is_called_so(dialect, body):
    """Whatever comes, it is one kind of error and never an exception."""
    with pytest.raises(WrongAnswerError, match="malformed"):
        dialect.read(action_of(Kind.START), body)


def test_random_bytes_are_malformed_or_an_answer():
    """A tracker behind a broken proxy must not end the test."""
    rng = random.Random(1)
    for _ in range(2000):
        body = bytes(rng.choice(b"d5:peers0:eli1\x00\xff") for _ in range(rng.randrange(30)))
        with contextlib.suppress(WrongAnswerError):
            assert isinstance(Bep3().read(action_of(Kind.START), body), Answer)


def test_compact_and_listed_peers_of_both_families_are_read():
    """BEP 3, 7, 23."""
    body = (
        b"d8:completei1e10:incompletei2e8:intervali30e5:peers6:\x7f\x00\x00\x01\x1a\xe16:peers618:"
        + b"\0" * 17
        + b"\x05e"
    )
    answer = Bep3().read(action_of(Kind.START), body)
    assert [port for _, port in answer.peers] == [6881, 5]
    assert (answer.total, answer.interval_s) == (3, 30)
    body = b"d5:peersld2:ip9:127.0.0.14:porti6881eeee"
    answer = Bep3().read(action_of(Kind.START), body)
    assert list(answer.peers) == [(b"127.0.0.1", 6881)]
    assert answer.total is None


def test_a_failure_reason_is_an_error_of_its_own():
    """With status 200: load tests that look at the status only count it as a success."""
    with pytest.raises(WrongAnswerError, match="not allowed") as caught:
        Bep3().read(action_of(Kind.START), b"d14:failure reason11:not allowede")
    assert caught.value.kind == "failure reason"


def test_a_refusal_is_counted_by_its_status():
    """503 under overload is not the same as a wrong answer."""
    source = TrackerSource(Population(1, size=1, swarms=1), "rest")
    job = source.next(0.0)
    _, problem = source.judge(job, 503, b"later")
    assert (problem.kind, problem.detail) == ("status 503", "later")
