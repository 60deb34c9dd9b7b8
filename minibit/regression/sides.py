"""The two sides of a comparison: what the user named, made ready to run.

A *revision* gets a worktree of its own and an environment with the dependencies that its pyproject.toml asks for. Both
lie in the user's cache and are used again as long as they are unchanged; two revisions that ask for the same
dependencies share one environment, so that no library's version differs between them. Nothing in the user's working
tree is touched. An *interpreter* is used as it is; of a *scenario* the code is this MiniBit's own.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from minibit.errors import MiniBitError, UsageError
from minibit.provenance import GitError, ask_git, git
from minibit.record import CodeVersion
from minibit.regression.comparison import EXIT_COULD_NOT_RUN, SideRecord

MAIN = "from minibit.cli import main; main()"
INTERPRETER, SCENARIO, REVISION = "an interpreter", "a scenario file", "a revision"
KEPT_WORKTREES = 8
IN_USE_S = 86_400.0  # a worktree that a comparison may still be running from
FORCE = ("--force", "--force")  # twice: also what a git that was killed left locked
CHECKOUT_TIMEOUT_S = 120.0
PIP_TIMEOUT_S = 900.0
LOOK_TIMEOUT_S = 60.0
Tell = Callable[[str], None]

_LOOK = """
import importlib.metadata, json, platform, minibit, minibit.cli
packages = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
print(json.dumps({"python": f"{platform.python_implementation()} {platform.python_version()}", "packages": packages,
                  "file": minibit.__file__}))
"""


class CouldNotCompare(MiniBitError):  # noqa: N818  an outcome of its own, with an exit code of its own
    """The comparison could not be made, or must not be: the message names what is in the way."""

    exit_code = EXIT_COULD_NOT_RUN


class DoesNotCount(CouldNotCompare):
    """A run came to its end, but its own record says that its figures do not count."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side, ready to run: its interpreter, and ``code`` put before what that has installed, if it is a worktree."""

    name: str  # base | head
    given: str
    python: Path
    code: Path | None = None
    commit: CodeVersion | None = None
    subject: str = ""
    scenario: Path | None = None

    def command(self, *arguments: str) -> list[str]:
        """Return the side's own ``minibit`` with these arguments."""
        return [str(self.python), "-c", MAIN, *arguments]

    def environment(self) -> dict[str, str]:
        """Return the variables it runs with; the working directory is no place to import from."""
        return _own_environment() | {"PYTHONSAFEPATH": "1"} | ({"PYTHONPATH": str(self.code)} if self.code else {})

    def look(self) -> SideRecord:
        """Ask the interpreter what it is. Raise CouldNotCompare if no MiniBit runs there, or another than meant."""
        try:
            done = subprocess.run(
                [str(self.python), "-c", _LOOK],
                env=self.environment(),
                capture_output=True,
                text=True,
                timeout=LOOK_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CouldNotCompare(f"{self.name} {self.given} does not run MiniBit: {error}") from error
        if done.returncode or not done.stdout:
            raise CouldNotCompare(f"{self.name} {self.given} does not run MiniBit: {last_line(done.stderr)}")
        try:
            told: dict[str, Any] = json.loads(last_line(done.stdout))  # a wrapper may say something before
        except json.JSONDecodeError:
            raise CouldNotCompare(f"{self.name} {self.given} does not run MiniBit: {last_line(done.stdout)}") from None
        if self.code and not Path(told["file"]).is_relative_to(self.code):
            raise CouldNotCompare(f"{self.name} {self.given}: the MiniBit that runs is that of {told['file']}")
        packages = {name.lower(): version for name, version in told["packages"].items() if name.lower() != "minibit"}
        return SideRecord(
            given=self.given,
            commit=self.commit,
            subject=self.subject,
            python=told["python"],
            packages=dict(sorted(packages.items())),
        )


def _own_environment() -> dict[str, str]:
    """Return the user's variables without those that lead Python to other libraries than its own."""
    return {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}


def last_line(text: str) -> str:
    """Return the last line that a failed program said."""
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def cache_folder() -> Path:
    """Return where worktrees and environments are kept: MINIBIT_CACHE, or minibit in the user's cache."""
    if named := os.environ.get("MINIBIT_CACHE"):
        return Path(named).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minibit"


def make_sides(base: str, head: str, *, uncommitted: bool = False, tell: Tell = lambda _: None) -> tuple[Side, Side]:
    """Make ready what the user named. ``uncommitted``: the head is the working tree as it is now.

    Raise UsageError for what is no revision, interpreter or scenario, or if the two are not of one kind; and
    CouldNotCompare if an environment cannot be made.
    """
    kinds = [kind_of(base), REVISION if uncommitted else kind_of(head)]
    if kinds[0] != kinds[1]:
        raise UsageError(f"{base} is {kinds[0]} and {head} {kinds[1]}: only two of a kind can be compared")
    sides = {"base": base, "head": head}
    if kinds[0] == INTERPRETER:
        made = [Side(name, given, Path(given).absolute()) for name, given in sides.items()]
    elif kinds[0] == SCENARIO:
        made = [Side(name, given, Path(sys.executable), scenario=Path(given)) for name, given in sides.items()]
    else:
        repository = Repository.here()
        with _locked(cache_folder()):
            made = [
                repository.side(name, given, tell, uncommitted=uncommitted and name == "head")
                for name, given in sides.items()
            ]
            repository.forget_old(keep={side.code for side in made})
    return made[0], made[1]


def kind_of(given: str) -> str:
    """Return what the user named: a scenario file, an interpreter, or else a revision."""
    path = Path(given)
    if given.endswith(".toml") and path.is_file():
        return SCENARIO
    if path.is_file() and os.access(path, os.X_OK):
        return INTERPRETER
    return REVISION


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time make worktrees and environments."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, slots=True)
class Repository:
    """The git repository that holds the revisions; its working tree is only read."""

    root: Path

    @classmethod
    def here(cls) -> "Repository":
        """Return the one around the working directory. Raise UsageError if there is none."""
        told = git(Path.cwd(), "rev-parse", "--show-toplevel")
        if told is None:
            raise UsageError(
                "this folder is in no git repository: revisions are compared in a checkout of MiniBit "
                "(or name two interpreters, or two scenario files)"
            )
        return cls(Path(told))

    def side(self, name: str, given: str, tell: Tell, *, uncommitted: bool) -> Side:
        """Return a revision as a side, with its worktree and environment."""
        commit = self._snapshot() if uncommitted else self.commit_of(given)
        code = self._worktree(commit, given)
        tell(f"{name}: {commit[:9]}")
        side = Side(
            name=name,
            given="the working tree" if uncommitted else given,
            python=_environment(_requirements(code), tell),
            code=code,
            commit=CodeVersion(id=commit, dirty=False),
            subject=git(self.root, "log", "-1", "--format=%s", commit) or "",
        )
        return replace(side, subject="changes that are not committed") if uncommitted else side

    def commit_of(self, revision: str) -> str:
        """Return the full id of a revision. Raise UsageError if it is none."""
        commit = git(self.root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        if not commit:
            raise UsageError(f"{revision} is no revision of {self.root}, no interpreter and no scenario file")
        return commit

    def differs_from_head(self) -> bool:
        """Whether the working tree has changes that no commit holds."""
        return bool(git(self.root, "status", "--porcelain"))

    def _snapshot(self) -> str:
        """Return a commit of the working tree as it is, new files included, that no branch shows.

        The same content gives the same commit, so that its worktree is found again.
        """
        index = cache_folder() / f"index-{os.getpid()}"
        dates = {f"GIT_{who}_{what}": "2000-01-01T00:00:00Z" for who in ("AUTHOR", "COMMITTER") for what in ("DATE",)}
        names = {f"GIT_{who}_{what}": "minibit" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        variables = {"GIT_INDEX_FILE": str(index), **dates, **names}
        try:
            ask_git(self.root, "read-tree", "HEAD", variables=variables)
            ask_git(self.root, "add", "--all", variables=variables, timeout_s=CHECKOUT_TIMEOUT_S)
            tree = ask_git(self.root, "write-tree", variables=variables)
            return ask_git(self.root, "commit-tree", tree, "-p", "HEAD", "-m", "the working tree", variables=variables)
        except GitError as error:
            raise CouldNotCompare(f"git could not take the working tree of {self.root}: {error}") from error
        finally:
            index.unlink(missing_ok=True)

    @property
    def _worktrees(self) -> Path:
        name = hashlib.sha256(str(self.root).encode()).hexdigest()[:12]
        return cache_folder() / "worktrees" / name

    def _worktree(self, commit: str, given: str) -> Path:
        """Return a clean worktree of the commit, made anew if somebody changed it."""
        folder = self._worktrees / commit[:16]
        clean = folder.exists() and git(folder, "status", "--porcelain", "--untracked-files=no") == ""
        if not clean or git(folder, "rev-parse", "HEAD") != commit:
            self._remove(folder)
            add = ("worktree", "add", *FORCE, "--detach", str(folder), commit)
            try:
                ask_git(self.root, *add, timeout_s=CHECKOUT_TIMEOUT_S)
            except GitError as error:
                raise CouldNotCompare(f"git could not check {given} out into {folder}: {error}") from error
        if not (folder / "minibit" / "__init__.py").exists():
            raise UsageError(f"{given} is no MiniBit: there is no minibit/__init__.py in it")
        os.utime(folder)
        return folder

    def forget_old(self, keep: set[Path | None]) -> None:
        """Remove the worktrees that were not used for longest, but for the newest few and those of today."""
        found = sorted(self._worktrees.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
        old_s = time.time() - IN_USE_S
        for folder in found[KEPT_WORKTREES:]:
            if folder not in keep and folder.stat().st_mtime < old_s:
                self._remove(folder)
        for link in cache_folder().glob("worktrees/*/*/.git"):
            if not Path(link.read_text().strip().removeprefix("gitdir: ")).exists():  # its repository is gone
                shutil.rmtree(link.parent)

    def _remove(self, folder: Path) -> None:
        git(self.root, "worktree", "remove", *FORCE, str(folder))
        shutil.rmtree(folder, ignore_errors=True)
        git(self.root, "worktree", "prune")


# -- environments ------------------------------------------------------------------------------------------------------


def _requirements(code: Path) -> list[str]:
    """Return what the revision's pyproject.toml depends on."""
    try:
        told = tomllib.loads((code / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CouldNotCompare(f"{code / 'pyproject.toml'} cannot be read: {error}") from error
    return sorted(told.get("project", {}).get("dependencies", []))


def _environment(requirements: list[str], tell: Tell) -> Path:
    """Return the interpreter of an environment with these requirements and this Python; make it if need be."""
    wanted = msgspec.json.encode([sys.version, requirements])
    folder = cache_folder() / "environments" / hashlib.sha256(wanted).hexdigest()[:16]
    python, whole = folder / "bin" / "python", folder / "complete"
    if not whole.exists():
        tell(f"making an environment with {len(requirements)} dependencies")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            venv.create(folder, with_pip=True, symlinks=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CouldNotCompare(f"an environment could not be made (is python3-venv installed?): {error}") from error
        if requirements:
            _install(python, requirements)
        whole.touch()
    return python


def _install(python: Path, requirements: list[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    try:
        done = subprocess.run(
            command, env=_own_environment(), capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise CouldNotCompare(f"pip did not install the dependencies within {PIP_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise CouldNotCompare(f"pip could not install the dependencies: {last_line(done.stderr)}")
