"""What `noderuntime doctor` says of the facts that it has found: pure, fact in, sentence out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from noderuntime.ipc.homes import MEMORY_SHARE, MEMORY_SYSTEMS, SHM_SHARE, SIZE_BYTES, SIZE_BYTES_MIN
from noderuntime.runtime.descriptors import NEEDED, NEEDED_PER_NODE

MB = 1_000_000
FAST_CLOCK_NS = 200  # a clock that user code reads itself; asking the kernel takes longer
LATE_S = 0.001
PROCESSES_BESIDE_NODES = 4  # runtime, guard, store, fork server
MANY_NODES = 50


class Verdict(Enum):
    OK = "ok"
    NOTE = "note"  # it works, with less than one may expect
    PROBLEM = "problem"  # no run can work


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and what that means here."""

    name: str
    value: str
    verdict: Verdict
    meaning: str


@dataclass(frozen=True, slots=True)
class Installation:
    """`extras`: of each extra, its packages and their versions (None: missing). None: not known."""

    version: str
    compiled: bool
    python: str
    extras: Mapping[str, Mapping[str, str | None]] | None


@dataclass(frozen=True, slots=True)
class Home:
    """Where the next run would be kept, and how large its space would be. `refused`: why there is no such place."""

    folder: str
    system: str
    bytes: int
    free_bytes: int
    space_bytes: int
    notice: str
    refused: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Of this process and its children; None where there is none."""

    files: int | None
    processes: int | None
    file_bytes: int | None
    address_bytes: int | None


@dataclass(frozen=True, slots=True)
class Machine:
    """`clock_ns`: what one look at the clock costs; `late_s`: how late a sleep of a run's process ends."""

    kernel: str
    cores: int
    cpu_limit: float | None
    memory_bytes: int
    memory_limit_bytes: int | None
    swap_bytes: int
    home: Home
    clears_at_logout: bool
    limits: Limits
    clock: str
    clock_ns: float
    late_s: float
    has_pidfd: bool


def installed(found: Installation) -> list[Check]:
    """What is installed: the build, and the extras."""
    if found.compiled:
        why = "The modules that an event goes through are compiled."
        build = Check("build", f"{found.version}, compiled", Verdict.OK, why)
    else:
        build = Check(
            "build", f"{found.version}, interpreted", Verdict.NOTE,
            "Everything works; an event takes about half as long again as with the compiled build, which `pip install` "
            "makes where it finds a C compiler and Python's headers (a checkout is never compiled).",
        )  # fmt: skip
    why = "Operators, and nodes that are .py files, run with this interpreter."
    python = Check("Python", found.python, Verdict.OK, why)
    return [build, python, *_extras(found.extras)]


def _extras(extras: Mapping[str, Mapping[str, str | None]] | None) -> list[Check]:
    if extras is None:
        why = "The package is not installed here, so what its extras need cannot be told."
        return [Check("extras", "not known", Verdict.NOTE, why)]
    found = []
    for extra, packages in sorted(extras.items()):
        if extra in {"all", "test"}:
            continue
        missing = [name for name, version in packages.items() if version is None]
        if missing:
            how = f"Not needed unless you use it; to have it: pip install 'noderuntime[{extra}]'."
            found.append(Check(f"extra {extra}", f"without {', '.join(missing)}", Verdict.OK, how))
        else:
            versions = ", ".join(f"{name} {version}" for name, version in packages.items())
            found.append(Check(f"extra {extra}", versions, Verdict.OK, "Installed."))
    return found


def checks(machine: Machine) -> list[Check]:
    """What the machine means for runs."""
    return [
        _kernel(machine),
        _cores(machine),
        *_places(machine),
        _memory(machine),
        *_limits(machine.limits),
        _clock(machine),
        _sleeps(machine),
    ]


def _kernel(machine: Machine) -> Check:
    name, value = "kernel", f"Linux {machine.kernel}"
    if machine.has_pidfd:
        return Check(name, value, Verdict.OK, "It has pidfds: the runtime never mistakes one process for another.")
    why = (
        "pidfd_open(2) does not exist or is not allowed here: the runtime cannot watch its processes. It needs Linux "
        "5.3 and, in a container, a seccomp profile that allows pidfd_open."
    )
    return Check(name, f"{value}, without pidfds", Verdict.PROBLEM, why)


def _cores(machine: Machine) -> Check:
    limit = machine.cpu_limit
    value = str(machine.cores) + ("" if limit is None else f", limited to the time of {limit:g} (cgroup)")
    if limit is not None and limit < machine.cores:
        why = (
            "When the time of a period is used up, all processes of a run are stopped until the next one, for up to a "
            "tenth of a second: messages are late then, and nothing is lost."
        )
        return Check("cores", value, Verdict.NOTE, why)
    if machine.cores == 1:
        why = "Every node is a process: with one core each hop is a switch of processes, and nothing runs in parallel."
        return Check("cores", value, Verdict.NOTE, why)
    return Check("cores", value, Verdict.OK, f"Every node is a process: up to {machine.cores} of them run at a time.")


def _places(machine: Machine) -> list[Check]:
    home = machine.home
    if home.refused:
        return [Check("runs", home.folder, Verdict.PROBLEM, " ".join(home.refused.split()))]
    system = home.system or "an unknown file system"
    value = f"{home.folder} ({system}, {_mb(home.free_bytes)} of {_mb(home.bytes)} free)"
    in_memory = home.system in MEMORY_SYSTEMS
    if not in_memory:
        why = "Runs are kept on disk here, not in memory: everything works, and a commit may wait for the disk."
        return [Check("runs", value, Verdict.NOTE, f"{why} {home.notice}".strip()), _space(home)]
    if machine.clears_at_logout:
        why = (
            "Messages and state are in memory here. When you log out for the last time, systemd-logind removes them, "
            "even of a run that continues: `loginctl enable-linger` prevents that, or RemoveIPC=no in logind.conf."
        )
        return [Check("runs", value, Verdict.NOTE, why), _space(home)]
    why = "Messages and state are in memory here and survive every process; snapshots survive the machine."
    return [Check("runs", value, Verdict.OK, why), _space(home)]


def _space(home: Home) -> Check:
    value = f"up to {_mb(home.space_bytes)} a run"
    if home.space_bytes < SIZE_BYTES_MIN:
        why = f"Less than {_mb(SIZE_BYTES_MIN)}: make room in {home.folder}, or set $NODERUNTIME_HOME to a folder."
        return Check("space", value, Verdict.PROBLEM, why)
    if home.space_bytes < SIZE_BYTES:
        why = (
            f"The default is {_mb(SIZE_BYTES)}, but not more than {SHM_SHARE:.0%} of the free shared memory and "
            f"{MEMORY_SHARE:.0%} of a memory limit. A larger `state: {{size: ...}}` is kept on disk."
        )
        return Check("space", value, Verdict.NOTE, why)
    why = "Queues, state and large messages of a run share it; `state: {size: ...}` sets it."
    return Check("space", value, Verdict.OK, why)


def _memory(machine: Machine) -> Check:
    limit = machine.memory_limit_bytes
    value = _mb(machine.memory_bytes) + ("" if limit is None else f", limited to {_mb(limit)} (cgroup)")
    if limit is not None:
        why = "What runs keep in shared memory counts against this limit, as the memory of their processes does."
        return Check("memory", value, Verdict.NOTE, why)
    if machine.swap_bytes:
        why = "Shared memory can be swapped out: when memory is short, a commit may wait for the disk."
        return Check("memory", f"{value}, and {_mb(machine.swap_bytes)} of swap", Verdict.OK, why)
    return Check("memory", value, Verdict.OK, "An idle operator takes about 7 MB.")


def _limits(limits: Limits) -> list[Check]:
    found = []
    nodes = None if limits.files is None else (limits.files - NEEDED) // NEEDED_PER_NODE
    if nodes is None or nodes >= MANY_NODES:
        why = "Enough for any run." if nodes is None else f"Enough for a run of {nodes} nodes."
        found.append(Check("open files", _or_none(limits.files), Verdict.OK, why))
    else:
        verdict = Verdict.NOTE if nodes > 0 else Verdict.PROBLEM
        wanted = NEEDED + NEEDED_PER_NODE * MANY_NODES
        why = f"A run of more than {max(nodes, 0)} nodes is refused. For {MANY_NODES} nodes: `ulimit -n {wanted}`."
        found.append(Check("open files", _or_none(limits.files), verdict, why))
    room = None if limits.processes is None else limits.processes - PROCESSES_BESIDE_NODES
    if room is None or room >= MANY_NODES:
        why = "Every node is a process, and has some threads."
        found.append(Check("processes", _or_none(limits.processes), Verdict.OK, why))
    else:
        why = "Every node is a process, and has some threads; all of this user's count. `ulimit -u` raises the limit."
        found.append(Check("processes", _or_none(limits.processes), Verdict.NOTE, why))
    for name, limit, raises in (
        ("file size", limits.file_bytes, "ulimit -f"),
        ("address space", limits.address_bytes, "ulimit -v"),
    ):
        if limit is None or limit >= 2 * SIZE_BYTES:
            continue
        verdict = Verdict.PROBLEM if limit < SIZE_BYTES_MIN else Verdict.NOTE
        why = (
            "The space of a run is a file that all its processes map. "
            f"`{raises} unlimited` lifts the limit; else `state: {{size: ...}}` has to be well below it."
        )
        found.append(Check(name, _mb(limit), verdict, why))
    return found


def _clock(machine: Machine) -> Check:
    value = f"{machine.clock or 'unknown'}, {machine.clock_ns:.0f} ns a look"
    if machine.clock_ns <= FAST_CLOCK_NS:
        return Check("clock", value, Verdict.OK, "It is read some times for each event, without asking the kernel.")
    why = "It is read some times for each event, and here the kernel has to be asked: runs are slower for it."
    return Check("clock", value, Verdict.NOTE, why)


def _sleeps(machine: Machine) -> Check:
    value = f"{machine.late_s * 1e6:.0f} us late"
    if machine.late_s <= LATE_S:
        return Check("sleeps", value, Verdict.OK, "How late the ticks of timers are.")
    why = "How late the ticks of timers are: the machine is busy, or its kernel has coarse timers."
    return Check("sleeps", value, Verdict.NOTE, why)


def _or_none(limit: int | None) -> str:
    return "no limit" if limit is None else str(limit)


def _mb(count: int) -> str:
    return f"{count / MB:,.0f} MB" if count < 10_000 * MB else f"{count / MB / 1000:,.0f} GB"
