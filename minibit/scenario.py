"""What a swarm is: a frozen description, from a TOML file, from options, or from the record of an earlier run.

A ``Scenario`` that exists is valid: every way to make one checks it, once, and raises ScenarioError in one line that
names the key. In TOML sizes and rates are written for people (``size = "16MiB"``, ``upload_rate = "2MB/s"``); in a
record the same fields carry their unit in the name (``size_bytes``, ``upload_rate_bytes_per_s``) and are plain numbers.
"""

import math
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, Unpack, get_args

import msgspec
from msgspec import Meta

from minibit.core.blocks import MIB, auto_block_size_bytes, check_block_size
from minibit.core.bounds import Bound, fluid_bound_s, store_and_forward_bound_s
from minibit.errors import ScenarioError, UsageError
from minibit.tables import Spelling, explained, fields_of
from minibit.units import SIZE_MAX_BYTES, parse_rate, parse_size

Role = Literal["seed", "leecher"]
OnComplete = Literal["seed", "leave"]
Picker = Literal["rarest-first", "random", "sequential"]
Choker = Literal["tit-for-tat", "none"]
Isolation = Literal["process", "thread"]

PEERS_MAX = 10_000
TIMEOUT_MIN_S = 300.0  # without one given: five minutes, or ten times the bound where that is longer
TIMEOUT_BOUND_FACTOR = 10.0
MAX_NEIGHBOURS = 50  # what one answer of the tracker holds

Count = Annotated[int, Meta(ge=1, le=PEERS_MAX)]
SizeBytes = Annotated[int, Meta(ge=0, le=SIZE_MAX_BYTES)]
RateBytesPerS = Annotated[float, Meta(gt=0)]
DelayS = Annotated[float, Meta(ge=0)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,59}$")]


class FileSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file to be shared: a real one at an absolute ``path``, or ``size_bytes`` made from ``content_seed``."""

    path: str | None = None
    size_bytes: SizeBytes
    content_seed: int = 0

    @classmethod
    def of_path(cls, path: str | Path) -> "FileSpec":
        """Describe an existing file. Raise ScenarioError if it is not a readable regular file."""
        try:
            resolved = Path(path).expanduser().resolve()
            size_bytes = resolved.stat().st_size
        except (OSError, ValueError, RuntimeError) as error:  # missing; a NUL in the name; "~nobody"
            reason = error.strerror if isinstance(error, OSError) else error
            raise ScenarioError(f"cannot share {path}: {reason}") from error
        if not resolved.is_file():
            raise ScenarioError(f"cannot share {path}: not a regular file")
        return cls(path=str(resolved), size_bytes=size_bytes)


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``count`` peers alike. Peer ``i`` starts at ``start_delay_s + i * start_spread_s / count`` from the start.

    A rate of None is unlimited; a free rider uploads nothing, whatever its rate says.
    """

    name: Name
    role: Role = "leecher"
    count: Count
    upload_rate_bytes_per_s: RateBytesPerS | None = None
    download_rate_bytes_per_s: RateBytesPerS | None = None
    start_delay_s: DelayS = 0.0
    start_spread_s: DelayS = 0.0
    on_complete: OnComplete = "seed"
    free_rider: bool = False


class PeerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One peer of a scenario; fields as in its ``Group``."""

    peer_id: str
    group: str
    role: Role
    upload_rate_bytes_per_s: float | None
    download_rate_bytes_per_s: float | None
    start_delay_s: float
    on_complete: OnComplete
    free_rider: bool


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One swarm. ``block_size_bytes`` and ``timeout_s`` of None are chosen from the rest: see ``resolved``."""

    name: Name
    file: FileSpec
    groups: tuple[Group, ...]
    block_size_bytes: int | None = None
    picker: Picker = "rarest-first"
    choker: Choker = "tit-for-tat"
    isolation: Isolation = "process"
    rng_seed: int = 0
    timeout_s: Annotated[float, Meta(gt=0)] | None = None
    max_neighbours: Annotated[int, Meta(ge=1, le=1000)] = MAX_NEIGHBOURS

    def __post_init__(self) -> None:
        _check_groups(self.groups)
        _check_finite(self)
        if self.block_size_bytes is not None:
            try:
                check_block_size(self.block_size_bytes)
            except ValueError as error:
                raise ScenarioError(f'key "block_size": {error}') from error

    @property
    def effective_block_size_bytes(self) -> int:
        """The block size given, or the automatic one for this file."""
        return self.block_size_bytes or auto_block_size_bytes(self.file.size_bytes)

    @property
    def effective_timeout_s(self) -> float:
        """The time-out given, or the last start plus five minutes or ten times the bound, whichever is longer."""
        if self.timeout_s is not None:
            return self.timeout_s
        bound = self.fluid_bound()
        bound_s = max(bound.seconds if bound else 0.0, self.store_and_forward_bound_s() or 0.0)
        last_start_s = max(peer.start_delay_s for peer in self.peers())
        return last_start_s + max(TIMEOUT_MIN_S, TIMEOUT_BOUND_FACTOR * bound_s)

    def resolved(self) -> "Scenario":
        """Return the same swarm with every default filled in."""
        return msgspec.structs.replace(
            self, block_size_bytes=self.effective_block_size_bytes, timeout_s=self.effective_timeout_s
        )

    def to_record(self) -> dict[str, Any]:
        """Return the resolved scenario as JSON types, for the result record; ``from_record`` reads it back."""
        stored: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self.resolved()))
        return stored

    def peers(self) -> list[PeerSpec]:
        """Return every peer, seeds first; ids are the group's name and a number: ``leecher-007``."""
        peers = [peer for group in self.groups for peer in _peers_of(group)]
        return sorted(peers, key=lambda peer: peer.role != "seed")

    def fluid_bound(self) -> Bound | None:
        """Return the fluid bound, as if all leechers started at 0; the record reports it only where they do."""
        return fluid_bound_s(self.file.size_bytes, self._uploads("seed"), self._leecher_rates())

    def store_and_forward_bound_s(self) -> float | None:
        """Return the store-and-forward bound, as if all leechers started at 0; None where its assumptions fail."""
        return store_and_forward_bound_s(
            self.file.size_bytes, self.effective_block_size_bytes, self._uploads("seed"), self._uploads("leecher")
        )

    @property
    def starts_together(self) -> bool:
        """Whether every leecher starts at the start signal, as the bounds assume."""
        return all(not peer.start_delay_s for peer in self.peers() if peer.role == "leecher")

    def _uploads(self, role: Role) -> list[float | None]:
        return [_useful_upload(group) for group in self.groups if group.role == role for _ in range(group.count)]

    def _leecher_rates(self) -> list[tuple[float | None, float | None]]:
        downloads = [g.download_rate_bytes_per_s for g in self.groups if g.role == "leecher" for _ in range(g.count)]
        return list(zip(self._uploads("leecher"), downloads, strict=True))


class Given(TypedDict, total=False):
    """Options of a command line; what is absent was not given, and a rate of None is a given ``unlimited``."""

    name: str
    peers: int
    seeds: int
    path: str | Path
    size_bytes: int
    content_seed: int
    block_size_bytes: int | None
    upload_rate_bytes_per_s: float | None
    seed_upload_rate_bytes_per_s: float | None
    download_rate_bytes_per_s: float | None
    picker: Picker
    choker: Choker
    isolation: Isolation
    rng_seed: int
    timeout_s: float | None
    max_neighbours: int


_PLAIN = ("name", "block_size_bytes", "picker", "choker", "isolation", "rng_seed", "timeout_s", "max_neighbours")


def simple(**given: Unpack[Given]) -> Scenario:
    """Return a swarm of one seed and eight leechers sharing 16 MiB without limits, changed by what is given."""
    plain = Scenario(
        name="swarm",
        file=FileSpec(size_bytes=16 * MIB),
        groups=(Group(name="seed", role="seed", count=1), Group(name="leecher", count=8)),
    )
    return override(plain, **given)


def override(scenario: Scenario, **given: Unpack[Given]) -> Scenario:
    """Return the scenario changed by the options given; raise ScenarioError if it is then no valid one.

    ``peers`` counts leechers: several groups keep their proportions (likewise ``seeds``). ``upload_rate_bytes_per_s``
    holds for every peer, ``seed_upload_rate_bytes_per_s`` for seeds and before it; ``download_rate_bytes_per_s`` for
    leechers. A ``path`` and a size or seed of made-up content exclude each other.
    """
    groups = _resized(scenario.groups, "seed", given["seeds"]) if "seeds" in given else scenario.groups
    groups = _resized(groups, "leecher", given["peers"]) if "peers" in given else groups
    changes: dict[str, Any] = {key: given[key] for key in _PLAIN if key in given}  # type: ignore[literal-required]
    changes["groups"] = tuple(_with_rates(group, given) for group in groups)
    changes["file"] = _overridden_file(scenario.file, given)
    return from_record(msgspec.to_builtins(msgspec.structs.replace(scenario, **changes)))


def load(path: str | Path) -> Scenario:
    """Read a scenario file. A relative ``path`` of the shared file starts at the scenario file's own folder.

    Raise ScenarioError, one line that names the file and the key.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"cannot read scenario {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"scenario {path.name}: not valid TOML: {error}") from error
    try:
        table.setdefault("name", path.stem)
        return _converted(_plain_of_toml(table, path.parent))
    except UsageError as error:
        raise ScenarioError(f"scenario {path.name}: {error}") from error


def from_record(stored: Mapping[str, Any]) -> Scenario:
    """Return the scenario that a result record holds, to run it again.

    Raise ScenarioError if it is malformed, or if the real file it shared is gone or has another size now.
    """
    scenario = _converted(stored)
    if scenario.file.path is not None:
        size_now_bytes = FileSpec.of_path(scenario.file.path).size_bytes
        if size_now_bytes != scenario.file.size_bytes:
            raise ScenarioError(
                f"{scenario.file.path} has {size_now_bytes} bytes now and had {scenario.file.size_bytes} then"
            )
    return scenario


def _check_groups(groups: Sequence[Group]) -> None:
    total = sum(group.count for group in groups)
    if total > PEERS_MAX:
        raise ScenarioError(f"{total} peers are too many; a scenario holds {PEERS_MAX} at most")
    for role in get_args(Role):
        if not any(group.role == role for group in groups):
            raise ScenarioError(f'a swarm needs at least one {role}: no group has role = "{role}"')
    names = [group.name for group in groups]
    for number, group in enumerate(groups, 1):
        if names.index(group.name) != number - 1:
            raise ScenarioError(f'key "name" in group {number}: "{group.name}" is taken by an earlier group')
        if group.role == "seed":
            _check_seed(number, group)


def _check_seed(number: int, group: Group) -> None:
    """Refuse what would have no effect, or leave nobody to download from."""
    if group.free_rider:
        raise ScenarioError(f'key "free_rider" in group {number}: a seed that uploads nothing is no seed')
    if group.on_complete == "leave":
        raise ScenarioError(
            f'key "on_complete" in group {number}: a seed is complete from the start and would leave at once'
        )
    if group.download_rate_bytes_per_s is not None:
        raise ScenarioError(f'key "download_rate_bytes_per_s" in group {number}: a seed downloads nothing')


def _check_finite(scenario: Scenario) -> None:
    """Refuse TOML's ``inf`` and ``nan``, which would otherwise pass as numbers."""
    places: list[tuple[str, msgspec.Struct]] = [("", scenario)]
    places += [(f" in group {number}", group) for number, group in enumerate(scenario.groups, 1)]
    for where, struct in places:
        for field, value in msgspec.structs.asdict(struct).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ScenarioError(f'key "{field}"{where}: expected a finite number, not {value}')


def _peers_of(group: Group) -> list[PeerSpec]:
    digits = max(3, len(str(group.count - 1)))
    return [
        PeerSpec(
            peer_id=f"{group.name}-{number:0{digits}d}",
            group=group.name,
            role=group.role,
            upload_rate_bytes_per_s=group.upload_rate_bytes_per_s,
            download_rate_bytes_per_s=group.download_rate_bytes_per_s,
            start_delay_s=group.start_delay_s + number * group.start_spread_s / group.count,
            on_complete=group.on_complete,
            free_rider=group.free_rider,
        )
        for number in range(group.count)
    ]


def _useful_upload(group: Group) -> float | None:
    return 0.0 if group.free_rider else group.upload_rate_bytes_per_s


def _resized(groups: Sequence[Group], role: Role, total: int) -> tuple[Group, ...]:
    """Give the groups of a role ``total`` peers in their old proportions, by largest remainder, one each at least."""
    chosen = [group for group in groups if group.role == role]
    if total < len(chosen):
        raise ScenarioError(f"a swarm of this scenario needs at least {len(chosen)} {role}(s), not {total}")
    before = sum(group.count for group in chosen)
    exact = {group.name: total * group.count / before for group in chosen}
    counts = {name: max(1, math.floor(share)) for name, share in exact.items()}
    by_shortfall = sorted(exact, key=lambda name: counts[name] - exact[name])
    step = 1 if sum(counts.values()) < total else -1
    while missing := abs(total - sum(counts.values())):
        movable = [name for name in by_shortfall[::step] if counts[name] + step >= 1]
        for name in movable[:missing]:
            counts[name] += step
    return tuple(
        msgspec.structs.replace(group, count=counts[group.name]) if group.role == role else group for group in groups
    )


def _with_rates(group: Group, given: Given) -> Group:
    changes: dict[str, float | None] = {}
    if "upload_rate_bytes_per_s" in given:
        changes["upload_rate_bytes_per_s"] = given["upload_rate_bytes_per_s"]
    if "seed_upload_rate_bytes_per_s" in given and group.role == "seed":
        changes["upload_rate_bytes_per_s"] = given["seed_upload_rate_bytes_per_s"]
    if "download_rate_bytes_per_s" in given and group.role == "leecher":
        changes["download_rate_bytes_per_s"] = given["download_rate_bytes_per_s"]
    return msgspec.structs.replace(group, **changes)


def _overridden_file(file: FileSpec, given: Given) -> FileSpec:
    if "path" in given:
        if "size_bytes" in given or "content_seed" in given:
            raise ScenarioError("a real file has its own size and content: give either the file or a size")
        return FileSpec.of_path(given["path"])
    if "size_bytes" in given:
        return FileSpec(size_bytes=given["size_bytes"], content_seed=given.get("content_seed", file.content_seed))
    if "content_seed" in given:
        if file.path is not None:
            raise ScenarioError("a real file has its own content: a content seed needs a size")
        return msgspec.structs.replace(file, content_seed=given["content_seed"])
    return file


# -- TOML ------------------------------------------------------------------------------------------------------------


def _block_size(text: Any) -> int | None:
    return None if text == "auto" else parse_size(text)


def _file_size(text: Any) -> int:
    return parse_size(text, allow_zero=True)


_SPELLING: Spelling = types.MappingProxyType(
    {
        "size_bytes": ("size", _file_size),
        "block_size_bytes": ("block_size", _block_size),
        "upload_rate_bytes_per_s": ("upload_rate", parse_rate),
        "download_rate_bytes_per_s": ("download_rate", parse_rate),
    }
)
_CHOICES: Mapping[str, tuple[str, ...]] = types.MappingProxyType(
    {
        "role": get_args(Role),
        "on_complete": get_args(OnComplete),
        "picker": get_args(Picker),
        "choker": get_args(Choker),
        "isolation": get_args(Isolation),
    }
)


def _plain_of_toml(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the table with the fields' own names and plain numbers; its types are checked afterwards."""
    plain = fields_of(Scenario, table, "", _SPELLING)
    file = plain.get("file")
    if isinstance(file, dict):
        plain["file"] = _file_of_toml(file, folder)
    groups = plain.get("groups")
    if isinstance(groups, list):
        plain["groups"] = [
            fields_of(Group, group, f" in group {number}", _SPELLING) if isinstance(group, dict) else group
            for number, group in enumerate(groups, 1)
        ]
    return plain


def _file_of_toml(table: dict[str, Any], folder: Path) -> Any:
    plain = fields_of(FileSpec, table, " in file", _SPELLING)
    path = plain.get("path")
    if not isinstance(path, str):
        return plain
    if len(plain) > 1:
        raise ScenarioError('key "path" in file: a real file has its own size and content; leave out the other keys')
    return msgspec.to_builtins(FileSpec.of_path(folder / Path(path).expanduser()))


def _converted(plain: Mapping[str, Any]) -> Scenario:
    try:
        return msgspec.convert(plain, Scenario)
    except msgspec.ValidationError as error:
        raise ScenarioError(explained(str(error), _SPELLING, _CHOICES)) from error
