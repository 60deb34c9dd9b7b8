"""The two sides: worktrees and environments, made once, used again, never the user's own."""

import os
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest

from minibit.errors import UsageError
from minibit.regression import sides
from minibit.regression.sides import CouldNotCompare, Repository, Side, make_sides

PYPROJECT = '[project]\nname = "minibit"\nversion = "0"\ndependencies = []\n'
CLI = "def main():\n    print(__file__)\n"


def git(folder, *arguments):
    """Run git in a folder."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder, message):
    """Commit everything there is; return the id."""
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Return a cache of this module: an environment takes seconds to make."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def repository(tmp_path, monkeypatch, cache):
    """Work in a repository of a MiniBit that does nothing."""
    root = tmp_path / "repository"
    (root / "minibit").mkdir(parents=True)
    git(tmp_path, "init", "--quiet", str(root))
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "minibit" / "__init__.py").write_text("")
    (root / "minibit" / "cli.py").write_text(CLI)
    commit(root, "first")
    (root / "minibit" / "cli.py").write_text(CLI + "# second\n")
    commit(root, "second")
    monkeypatch.chdir(root)
    monkeypatch.setenv("MINIBIT_CACHE", str(cache))
    return root


def test_each_revision_runs_its_own_code(repository, cache):
    """From a worktree in the cache, whatever the working tree and the working directory hold."""
    (repository / "minibit" / "cli.py").write_text("broken (\n")
    base, head = make_sides("HEAD~1", "HEAD")
    assert (base.subject, head.subject) == ("first", "second")
    for side in (base, head):
        told = side.look()
        assert told.commit == side.commit
        done = subprocess.run(
            side.command(), env=side.environment(), cwd=repository, capture_output=True, text=True, check=True
        )
        assert Path(done.stdout.strip()).is_relative_to(cache)
    assert base.code != head.code
    assert git(repository, "status", "--porcelain") == "M minibit/cli.py"


def test_equal_dependencies_share_an_environment(repository):
    """No library's version can differ between two revisions that ask for the same; a change asks for another one."""
    base, head = make_sides("HEAD~1", "HEAD")
    assert base.python == head.python
    made_at = head.python.parent.parent.joinpath("complete").stat().st_mtime_ns
    again = make_sides("HEAD~1", "HEAD")
    assert [side.code for side in again] == [base.code, head.code]
    assert again[1].python.parent.parent.joinpath("complete").stat().st_mtime_ns == made_at
    (repository / "pyproject.toml").write_text(PYPROJECT.replace("[]", '["no such thing!"]'))
    commit(repository, "third")
    with pytest.raises(CouldNotCompare, match="pip could not install the dependencies"):
        make_sides("HEAD~1", "HEAD")


def test_a_worktree_that_somebody_changed_is_made_anew(repository):
    """What runs is what the commit says."""
    _, head = make_sides("HEAD~1", "HEAD")
    (head.code / "minibit" / "cli.py").write_text("spoilt\n")
    _, again = make_sides("HEAD~1", "HEAD")
    assert (again.code / "minibit" / "cli.py").read_text() == CLI + "# second\n"


def test_the_working_tree_is_compared_as_it_is(repository):
    """New files included; nothing is committed, staged or changed; the same content is found again."""
    (repository / "minibit" / "new.py").write_text("x = 1\n")
    (repository / "minibit" / "cli.py").write_text(CLI + "# third\n")
    before = git(repository, "status", "--porcelain"), git(repository, "rev-parse", "HEAD")
    _, head = make_sides("HEAD", "HEAD", uncommitted=True)
    assert (head.code / "minibit" / "new.py").exists()
    assert (head.code / "minibit" / "cli.py").read_text() == CLI + "# third\n"
    assert (git(repository, "status", "--porcelain"), git(repository, "rev-parse", "HEAD")) == before
    assert make_sides("HEAD", "HEAD", uncommitted=True)[1].commit == head.commit


def test_old_worktrees_are_removed(repository, monkeypatch):
    """A cache that only grows fills the disk."""
    monkeypatch.setattr(sides, "KEPT_WORKTREES", 2)
    for number in range(4):
        (repository / "minibit" / "cli.py").write_text(f"{CLI}# {number}\n")
        commit(repository, str(number))
        base, head = make_sides("HEAD~1", "HEAD")
        os.utime(base.code, (number, number))
    kept = sorted(folder.name for folder in head.code.parent.iterdir())
    assert kept == sorted([base.code.name, head.code.name])
    assert len(git(repository, "worktree", "list").splitlines()) == 3


def test_a_worktree_that_a_killed_git_left_is_made_anew(repository):
    """Locked in git's books, and its folder gone: that must not bar the commit for ever."""
    _, head = make_sides("HEAD~1", "HEAD")
    git(repository, "worktree", "lock", str(head.code))
    shutil.rmtree(head.code)
    _, again = make_sides("HEAD~1", "HEAD")
    assert (again.code / "minibit" / "cli.py").read_text() == CLI + "# second\n"


def test_worktrees_of_repositories_that_are_gone_go_too(repository, cache, tmp_path):
    """Scratch clones come and go; others' worktrees stay."""
    git(tmp_path, "clone", "--quiet", str(repository), str(tmp_path / "scratch"))
    with chdir(tmp_path / "scratch"):
        base, _ = make_sides("HEAD~1", "HEAD")
    shutil.rmtree(tmp_path / "scratch")
    _, head = make_sides("HEAD~1", "HEAD")
    assert not base.code.exists()
    assert head.code.exists()


def test_a_cache_may_be_named_from_here(repository, monkeypatch):
    """A relative MINIBIT_CACHE means the same to git, to Python and to a subfolder's commands."""
    monkeypatch.setenv("MINIBIT_CACHE", "../kept")
    _, head = make_sides("HEAD~1", "HEAD")
    assert head.code.is_relative_to(repository.parent)
    assert head.look().commit == head.commit


def test_what_git_says_is_told(repository, monkeypatch):
    """One line with the reason: people cannot look into a worktree that was not made."""
    (repository / "minibit" / "inner").mkdir()
    git(repository / "minibit" / "inner", "init", "--quiet")
    with pytest.raises(CouldNotCompare, match=r"could not take the working tree of .*inner/' does not have a commit"):
        make_sides("HEAD", "HEAD", uncommitted=True)


@pytest.mark.parametrize(
    ("base", "head", "said"),
    [
        ("nowhere", "HEAD", "nowhere is no revision of"),
        ("--upload-pack=x", "HEAD", "is no revision of"),
        (sys.executable, "HEAD", "an interpreter and HEAD a revision"),
    ],
)
def test_what_cannot_be_a_side_is_a_usage_error(repository, base, head, said):
    """One line, naming it."""
    with pytest.raises(UsageError, match=said):
        make_sides(base, head)


def test_a_revision_without_minibit_is_named(repository):
    """Somebody else's repository."""
    git(repository, "rm", "-r", "--quiet", "minibit")
    commit(repository, "gone")
    with pytest.raises(UsageError, match="is no MiniBit"):
        make_sides("HEAD~1", "HEAD")


def test_outside_a_repository_revisions_are_refused(tmp_path, monkeypatch):
    """It says what else can be compared."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="this folder is in no git repository"):
        make_sides("HEAD~1", "HEAD")


def test_interpreters_are_used_as_they_are(tmp_path):
    """Two environments with MiniBit installed; one without it is named."""
    base, head = make_sides(sys.executable, sys.executable)
    assert base.look().python.startswith("CPython 3.")
    assert (base.code, head.commit) == (None, None)
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\nexec /usr/bin/env python3 -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(CouldNotCompare, match="does not run MiniBit: ModuleNotFoundError"):
        Side("head", "bare", bare).look()
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\necho "activating"\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    assert Side("head", "wrapper", wrapper).look().python == base.look().python
    with pytest.raises(CouldNotCompare, match="echo does not run MiniBit"):
        Side("head", "echo", Path("/bin/echo")).look()


def test_two_scenarios_run_with_this_code(tmp_path):
    """The question is then what the scenario changes, not the code."""
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text("")
    base, head = make_sides(str(tmp_path / "a.toml"), str(tmp_path / "b.toml"))
    assert (base.scenario, head.scenario) == (tmp_path / "a.toml", tmp_path / "b.toml")
    assert base.python == Path(sys.executable)


def test_changes_that_are_not_committed_are_seen(repository):
    """So that the command can say that they are not compared."""
    assert not Repository.here().differs_from_head()
    (repository / "new").write_text("")
    assert Repository.here().differs_from_head()
