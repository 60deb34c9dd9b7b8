"""The driver's crews: threads that do jobs in the order they come."""

import threading

import pytest

from minibit.peers.driver import Crew

TIMEOUT_S = 10.0


def refuse(_thread):
    raise RuntimeError("can't start new thread")


def test_a_crew_starts_a_thread_only_when_all_are_at_work():
    """A peer that does one thing at a time has one thread for it."""
    done = threading.Semaphore(0)
    crew = Crew(4, lambda _job: done.release(), name="crew")
    for job in range(20):
        assert crew.take(job)
        assert done.acquire(timeout=TIMEOUT_S)
    crew.close()
    crew.join()
    assert 1 <= len(crew._threads) <= 2  # the next job may come before the last thread has counted its own as done


def test_a_crew_that_gets_no_more_threads_does_its_jobs_with_those_it_has(monkeypatch, wait_until):
    """Thousands of peers on one machine: the last threads go to somebody else."""
    go_on, done = threading.Event(), []

    def work(job):
        go_on.wait(TIMEOUT_S)
        done.append(job)

    crew = Crew(4, work, name="crew")
    assert crew.take(0)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert all(crew.take(job) for job in (1, 2, 3))
    monkeypatch.undo()
    go_on.set()
    wait_until(lambda: len(done) == 4, "the jobs")
    crew.close()
    crew.join()
    assert done == [0, 1, 2, 3]


def test_a_crew_without_any_thread_says_so(monkeypatch):
    """A job that nobody will ever do must not be taken in silence."""
    crew = Crew(4, lambda _job: None, name="crew")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        crew.take(0)
