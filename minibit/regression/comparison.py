"""A comparison as it is stored: every pair, what was made of them, under which conditions."""

from pathlib import Path
from typing import Any

import msgspec

from minibit.load import stored
from minibit.record import CodeVersion, Machine
from minibit.regression.evidence import Evidence, Verdict

SCHEMA_VERSION = 1
EXIT_CODES = {Verdict.NOT_REGRESSED: 0, Verdict.REGRESSED: 1, Verdict.INCONCLUSIVE: 3}
EXIT_COULD_NOT_RUN = 4


class SideRecord(msgspec.Struct, kw_only=True):
    """One of the two sides. ``given`` is what the user called it, ``commit`` the code that ran if it lies in git."""

    given: str
    commit: CodeVersion | None = None
    subject: str = ""  # the commit's first line
    python: str
    packages: dict[str, str] = {}


class Workload(msgspec.Struct, kw_only=True):
    """What both sides did in each pair. ``scenario`` is the resolved one of a swarm, {} of another workload."""

    name: str
    kind: str  # swarm | serving
    scenario: dict[str, Any] = {}
    pairs: int = 0
    seconds: float = 0.0


class Compared(msgspec.Struct, kw_only=True):
    """One metric of one workload: the values of every pair, in order, and what they say.

    Pair 0 ran base first, pair 1 head first, and so on. ``confirmation`` is the evidence of fresh pairs
    (``fresh_base``, ``fresh_head``) if there was an alarm; it decides then. ``evidence`` may be of fewer pairs than
    there are values: those that decided.
    """

    workload: str
    key: str
    title: str
    unit: str
    larger_is_better: bool
    base: list[float]
    head: list[float]
    evidence: Evidence
    fresh_base: list[float] = []
    fresh_head: list[float] = []
    confirmation: Evidence | None = None

    @property
    def decisive(self) -> Evidence:
        """What the verdict rests on."""
        return self.confirmation or self.evidence

    @property
    def verdict(self) -> Verdict:
        """An alarm that fresh pairs did not repeat is none."""
        return self.decisive.verdict


class Comparison(msgspec.Struct, kw_only=True):
    """Two sides, and whether head is worse. ``remarks`` are what a reader must know, one sentence each."""

    kind: str = "comparison"
    schema_version: int = SCHEMA_VERSION
    started_at: str
    machine: Machine
    base: SideRecord
    head: SideRecord
    rng_seed: int
    budget_s: float
    elapsed_s: float
    workloads: list[Workload]
    metrics: list[Compared]
    verdict: Verdict
    remarks: list[str] = []

    @property
    def regressed(self) -> list[Compared]:
        """The metrics that decided for regressed."""
        return [metric for metric in self.metrics if metric.verdict == Verdict.REGRESSED]


def write(comparison: Comparison, path: Path) -> None:
    """Write it as JSON. Raise StorageError."""
    stored.write(comparison, path)


def read(path: Path) -> Comparison:
    """Read what ``write`` wrote. Raise RecordError, naming the file."""
    return stored.read(path, Comparison, kind="comparison", schema_version=SCHEMA_VERSION)
