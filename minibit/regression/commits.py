"""The order of sessions: that of their commits in git where it knows them, that of time elsewhere. Asks git, once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from minibit.provenance import git
from minibit.regression.sessions import Session

SHORT_ID_MIN = 7


@dataclass(frozen=True, slots=True)
class Commits:
    """The history of a repository's HEAD: each commit's place, parents first; empty where there is no repository."""

    repository: Path
    places: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, repository: Path) -> "Commits":
        """Read it from git."""
        told = git(repository, "rev-list", "--topo-order", "--reverse", "HEAD") or ""
        return cls(repository, {commit: place for place, commit in enumerate(told.split())})

    def place(self, commit_id: str) -> int | None:
        """Return where a commit stands, by its id or its first digits; None if HEAD does not come from it."""
        if commit_id in self.places or len(commit_id) < SHORT_ID_MIN:
            return self.places.get(commit_id)
        found = [place for known, place in self.places.items() if known.startswith(commit_id)]
        return found[0] if len(found) == 1 else None

    def ordered(self, sessions: Iterable[Session]) -> list[Session]:
        """Return the sessions by their commits, those of one commit by time.

        A session whose commit git does not know comes after all that were older than it.
        """
        latest, keys = -1, {}
        for session in sorted(sessions, key=lambda each: (each.time, each.name)):
            place = self.place(session.commit.id) if session.commit else None
            latest = max(latest, latest if place is None else place)
            keys[session] = (latest if place is None else place, session.time, session.name)
        return sorted(keys, key=keys.__getitem__)

    def between(self, before: Session, after: Session) -> int | None:
        """Return how many commits lie between those of two sessions, both left out; None where git cannot tell."""
        if before.commit is None or after.commit is None:
            return None
        ids = (before.commit.id, after.commit.id)
        if any(self.place(commit_id) is None for commit_id in ids):
            return None
        told = git(self.repository, "rev-list", "--count", f"{ids[0]}..{ids[1]}")
        return max(0, int(told) - 1) if told else None
