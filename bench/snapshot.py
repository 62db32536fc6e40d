"""What a snapshot costs: the writer beside it, bytes and time by state size, full and incremental, and resuming.

A process commits to one space at full speed, as an operator does (state of 1 KB and its node record), and notes how
long each commit took. Another one, as the store does, takes snapshots of it into a directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.measure import Row, Section, percentile, times, us
from bench.systems import tell
from noderuntime.snapshot.keeper import Keeper, Taken
from noderuntime.snapshot.places import open_backend
from noderuntime.snapshot.restore import restore_newest
from noderuntime.space import keys, records
from noderuntime.space.environment import Space, create, open_space

VALUE_BYTES = 1000
SIZES_MB = (1, 10, 100, 1000)
CHANGED_SHARE = 0.01
WRITER_STATE_MB = 100
WRITER_KEYS = 1000
ROUNDS = 3
WRITER_S = 1.5
RATIO_MAX = 5
TAIL_MS = 2.0
PAUSE_MS_MAX = 20.0
BOOT = "bench"


@contextlib.contextmanager
def scratch(parent: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="noderuntime-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fill(space: Space, megabytes: int) -> int:
    """Private state of one node; returns the number of keys."""
    count = megabytes * 1_000_000 // VALUE_BYTES
    write(space, range(count))
    return count


def write(space: Space, numbers: range) -> None:
    prefix = keys.private_prefix(1)
    value = os.urandom(VALUE_BYTES)
    for start in range(0, len(numbers), 10_000):
        with space.write() as txn:
            stamp = records.PRIVATE.pack(space.base + txn.id())
            for number in numbers[start : start + 10_000]:
                txn.put(prefix + b"int:%d" % number, stamp + value)


def writer(folder: Path, seconds: float, out: Path) -> None:
    """Commits until the time is over; (begin, duration) of each, in nanoseconds."""
    space = open_space(folder)
    prefix = keys.private_prefix(2)
    value = os.urandom(VALUE_BYTES)
    clock = time.monotonic_ns
    found: list[tuple[int, int]] = []
    print("writing", flush=True)
    until = clock() + int(seconds * 1e9)
    number = 0
    began = clock()
    while began < until:
        number += 1
        with space.write() as txn:
            txn.put(prefix + b"%d" % (number % WRITER_KEYS), records.PRIVATE.pack(txn.id()) + value)
            txn.put(keys.node(2), records.NodeRecord(1, 0, number, [number]).pack())
        ended = clock()
        found.append((began, ended - began))
        began = ended
    space.close()
    out.write_text(json.dumps(found))


def beside(folder: Path, keeper: Keeper | None) -> tuple[list[int], Taken | None]:
    """The commits' durations of a writer: those within a copy when there is a keeper, else all of them."""
    out = folder / "commits.json"
    code = f"from bench.snapshot import writer; from pathlib import Path; writer(Path({str(folder / 'space')!r}), "
    code += f"{WRITER_S}, Path({str(out)!r}))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.3)
        taken = None
        window = (0, 1 << 63)
        if keeper is not None:
            keeper.last = None  # a full one
            began = time.monotonic_ns()
            taken = keeper.take("bench")
            window = (began, time.monotonic_ns())
        process.wait()
    commits = json.loads(out.read_text())
    return [took for began, took in commits if began + took >= window[0] and began <= window[1]], taken


def sizes(megabytes: int, disk: str) -> dict[str, Any]:
    """Full, incremental, and resume, of a state of that size."""
    with scratch("/dev/shm") as folder, scratch(disk) as kept:
        space = create(folder / "space", max(64 << 20, megabytes * 2_500_000), BOOT)
        count = fill(space, megabytes)
        backend = open_backend("kept", "bench", kept, kept, {})
        keeper = Keeper(space, backend, "bench", 3)
        full = keeper.take("bench")
        write(space, range(0, count, int(1 / CHANGED_SHARE)))
        part = keeper.take("bench")
        began = time.monotonic()
        restore_newest(backend, folder / "other", space.size_bytes, BOOT)
        resumed_s = time.monotonic() - began
        space.close()
        return {
            "full_bytes": full.manifest.size_bytes,
            "full_s": full.took_s,
            "pinned_s": full.pinned_s,
            "part_bytes": part.manifest.size_bytes,
            "part_s": part.took_s,
            "resume_s": resumed_s,
        }


def pauses(rounds: int, disk: str) -> dict[str, Any]:
    alone: list[float] = []
    inside: list[float] = []
    worst: list[float] = []
    grown: list[int] = []
    for _ in range(rounds):
        with scratch("/dev/shm") as folder, scratch(disk) as kept:
            space = create(folder / "space", WRITER_STATE_MB * 6_000_000, BOOT)
            fill(space, WRITER_STATE_MB)
            keeper = Keeper(space, open_backend("kept", "bench", kept, kept, {}), "bench", 3)
            without, _ = beside(folder, None)
            within, taken = beside(folder, keeper)
            space.close()
            assert taken is not None
            alone.append(percentile(without, 0.999))
            inside.append(percentile(within, 0.999))
            worst.append(max(within))
            grown.append(taken.manifest.growth_bytes)
    return {"alone": alone, "inside": inside, "worst": worst, "grown": grown}


def measure(rounds: int) -> Section:
    disk = tempfile.gettempdir()
    tell("the writer beside a snapshot")
    found = pauses(rounds, disk)
    alone, inside, worst = (median(found[name]) for name in ("alone", "inside", "worst"))
    allowed = max(RATIO_MAX * alone, TAIL_MS * 1e6)
    rows = [
        Row(f"writer at full speed, {WRITER_STATE_MB} MB of state: p99.9 of a commit", us(alone), "", ""),
        Row("the same within a full snapshot", us(inside), "", times(inside / alone),
            f"at most {RATIO_MAX}x, or {TAIL_MS:g} ms", inside <= allowed),
        Row("its longest commit meanwhile", us(worst), "", "", f"at most {PAUSE_MS_MAX:g} ms",
            worst <= PAUSE_MS_MAX * 1e6),
        Row("the space grows meanwhile by", f"{median(found['grown']) / 1e6:.1f} MB", "", ""),
    ]  # fmt: skip
    raw: dict[str, Any] = {"pauses": found}
    for megabytes in SIZES_MB:
        tell(f"snapshots of {megabytes} MB")
        part = raw[f"{megabytes} MB"] = sizes(megabytes, disk)
        share = part["part_bytes"] / part["full_bytes"]
        rows += [
            Row(f"{megabytes} MB: full snapshot, on disk", f"{part['full_s']:.3f} s", "", ""),
            Row(f"{megabytes} MB: pages pinned for", f"{part['pinned_s']:.3f} s", "", ""),
            Row(f"{megabytes} MB: after a change of 1 %", f"{part['part_s']:.3f} s", "", f"{share:.1%} of the bytes",
                "about 1 %", megabytes == 1 or share < 0.02),
            Row(f"{megabytes} MB: space restored in", f"{part['resume_s']:.3f} s", "", ""),
        ]  # fmt: skip
    return Section("Snapshots", rows, raw)
