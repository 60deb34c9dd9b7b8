"""Where a figure comes from: the machine and the version of the code. Reads /proc and asks git; changes nothing."""

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from minibit.errors import MiniBitError
from minibit.record import CodeVersion, Machine

PROC = Path("/proc")
MACHINE_ID = Path("/etc/machine-id")
PACKAGE = Path(__file__).resolve().parent
GIT_TIMEOUT_S = 10.0


class GitError(MiniBitError):
    """Git refused, or is not there: what it said."""


def describe_machine() -> Machine:
    """Describe this host. What the system does not tell is empty or 0, never an error."""
    cpu = _field(PROC / "cpuinfo", "model name") or platform.processor() or platform.machine()
    memory_kib = re.match(r"\d+", _field(PROC / "meminfo", "MemTotal"))
    identity = _text(MACHINE_ID).strip() or f"{platform.node()} {cpu}"
    return Machine(
        cpu=cpu,
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=int(memory_kib[0]) * 1024 if memory_kib else 0,
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        id=hashlib.sha256(identity.encode()).hexdigest()[:8],
    )


def folder_name(machine: Machine) -> str:
    """Return a name for the machine's results: CPU, cores and short id, in letters, digits and hyphens."""
    cpu = re.sub(r"\([^)]*\)|@.*|\b(?:CPU|Processor)\b", " ", machine.cpu)
    slug = re.sub(r"[^a-z0-9]+", "-", cpu.lower()).strip("-") or "unknown-cpu"
    return f"{slug[:40].rstrip('-')}-{machine.cores}c-{machine.id}"


def code_version(package: Path = PACKAGE) -> CodeVersion | None:
    """Return the commit of the checkout that the package itself lies in; None if it is not in one, or git is missing.

    Asks for tracked files: a virtual environment inside somebody else's repository is not that repository's code.
    Results written beside the code do not make it dirty; only the package's own files do.
    """
    if not git(package, "ls-files", "--", "."):
        return None
    commit = git(package, "rev-parse", "HEAD")
    status = git(package, "status", "--porcelain", "--", ".")
    return CodeVersion(id=commit, dirty=bool(status)) if commit and status is not None else None


def git(
    folder: Path, *arguments: str, variables: Mapping[str, str] | None = None, timeout_s: float = GIT_TIMEOUT_S
) -> str | None:
    """Return what git prints, or None if it fails."""
    try:
        return ask_git(folder, *arguments, variables=variables, timeout_s=timeout_s)
    except GitError:
        return None


def ask_git(
    folder: Path, *arguments: str, variables: Mapping[str, str] | None = None, timeout_s: float = GIT_TIMEOUT_S
) -> str:
    """Return what git prints; a hook's GIT_DIR must not lead it to another repository.

    ``variables`` are those of the environment that it is to have. Raise GitError with what it says if it fails.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=kept | dict(variables or {}),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except OSError as error:
        raise GitError(f"git does not run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise GitError(f"git {arguments[0]} did not end within {timeout_s:.0f} s") from error
    if done.returncode:
        raise GitError(" ".join(done.stderr.split()) or f"git {arguments[0]} failed")
    return done.stdout.strip()


def _field(path: Path, name: str) -> str:
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", _text(path), re.MULTILINE)
    return match[1].strip() if match else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
