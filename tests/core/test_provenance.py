"""A figure names the machine and the code that made it, or says that it does not know."""

import os
import subprocess

import pytest

from minibit import provenance
from minibit.record import Machine


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Make a repository with a committed package ``pkg`` in it, also when a git hook runs the tests."""
    for variable in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(variable)
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "code.py").write_text("x = 1\n")
    for command in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "m", "--no-gpg-sign", "--no-verify"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return package


def test_a_clean_checkout_is_its_commit(checkout):
    """The id is what somebody else checks out to repeat the figure."""
    version = provenance.code_version(checkout)
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert version.id == head.stdout.strip()
    assert not version.dirty


@pytest.mark.parametrize("change", ["code.py", "new.py"])
def test_a_changed_or_new_file_of_the_package_makes_it_dirty(checkout, change):
    """The commit alone would then name other code than what ran."""
    (checkout / change).write_text("x = 2\n")
    assert provenance.code_version(checkout).dirty


def test_results_beside_the_package_do_not_make_it_dirty(checkout):
    """A sweep writes its records into the checkout while it runs."""
    (checkout.parent / "result.json").write_text("{}")
    assert not provenance.code_version(checkout).dirty


def test_a_package_that_merely_lies_in_a_repository_is_not_its_code(checkout):
    """A virtual environment inside somebody's project must not be taken for that project's commit."""
    installed = checkout.parent / ".venv"
    installed.mkdir()
    (installed / "code.py").touch()
    assert provenance.code_version(installed) is None


def test_no_repository_and_no_git_are_unknown(tmp_path, monkeypatch):
    """A figure of unknown origin is still a figure; the record says null."""
    assert provenance.code_version(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.code_version() is None


def test_a_hooks_environment_does_not_lead_to_another_repository(checkout, tmp_path_factory, monkeypatch):
    """Git sets GIT_DIR for its hooks, and the test suite may run in one."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path_factory.mktemp("other")))
    assert provenance.code_version(checkout) is not None


def test_this_machine_is_described():
    """Results of different machines are never put into one folder."""
    machine = provenance.describe_machine()
    assert machine.cpu
    assert machine.cores >= 1
    assert machine.memory_bytes > 2**20
    assert machine.python.startswith("CPython 3.")
    assert machine == provenance.describe_machine()


def test_a_system_without_proc_is_described_all_the_same(tmp_path, monkeypatch):
    """What the system does not tell is left open rather than ending the run."""
    monkeypatch.setattr(provenance, "PROC", tmp_path)
    monkeypatch.setattr(provenance, "MACHINE_ID", tmp_path / "none")
    machine = provenance.describe_machine()
    assert machine.memory_bytes == 0
    assert len(machine.id) == 8


@pytest.mark.parametrize(
    ("cpu", "name"),
    [
        ("Intel(R) Xeon(R) Processor @ 2.50GHz", "intel-xeon-2c-0123abcd"),
        ("AMD Ryzen 7 5800X 8-Core Processor", "amd-ryzen-7-5800x-8-core-2c-0123abcd"),
        ("", "unknown-cpu-2c-0123abcd"),
        ("x" * 99, "x" * 40 + "-2c-0123abcd"),
    ],
)
def test_the_folder_of_a_machine_names_it(cpu, name):
    """The folder is read by people and lies in git: plain characters, CPU first."""
    machine = Machine(cpu=cpu, cores=2, memory_bytes=0, kernel="", python="", id="0123abcd")
    assert provenance.folder_name(machine) == name
