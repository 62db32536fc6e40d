"""Reads this machine at each tick: `sample` is {metric: number}, `processes` lists those that use most.

Metrics: cpu, cpu.0, cpu.1, ... memory, swap (percent); disk.read, disk.write, net.in, net.out (bytes a second).
What a machine or a container does not tell is left out.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from noderuntime import Node

COUNTERS: dict[str, tuple[Callable[[], Any], str]] = {
    "disk.read": (psutil.disk_io_counters, "read_bytes"),
    "disk.write": (psutil.disk_io_counters, "write_bytes"),
    "net.in": (psutil.net_io_counters, "bytes_recv"),
    "net.out": (psutil.net_io_counters, "bytes_sent"),
}


class Probe:
    """Remembers the last reading, because rates are differences."""

    def __init__(self) -> None:
        self.counters: dict[str, int] = {}
        self.read_s = 0.0

    def sample(self) -> dict[str, float]:
        """The metrics of now. The first sample has nothing to compare with: its CPU is 0, and it has no rates."""
        cores = psutil.cpu_percent(percpu=True)
        sample = {"cpu": sum(cores) / len(cores) if cores else 0.0}
        sample |= {f"cpu.{number}": percent for number, percent in enumerate(cores)}
        sample["memory"] = psutil.virtual_memory().percent
        swap = psutil.swap_memory()
        if swap.total:
            sample["swap"] = swap.percent

        counters = counts()
        now_s = time.monotonic()
        for name in counters.keys() & self.counters.keys():
            sample[name] = (counters[name] - self.counters[name]) / max(now_s - self.read_s, 1e-3)
        self.counters, self.read_s = counters, now_s
        return sample


def counts() -> dict[str, int]:
    """The counters that this machine has: in a container there may be no disks, or no network, to be seen."""
    found = {}
    for name, (read, field) in COUNTERS.items():
        with contextlib.suppress(NotImplementedError, RuntimeError, OSError):
            if (counter := read()) is not None:
                found[name] = getattr(counter, field)
    return found


def title(name: str, command: list[str]) -> str:
    """What to call a process, on one line: of an interpreter, its program."""
    if name.startswith("python") and "-c" not in command[:4]:  # then what follows is code
        programs = [Path(part).name for part in command[1:] if not part.startswith("-")]
        name = f"{name} {programs[0]}" if programs else name
    return "".join(character if character.isprintable() else "?" for character in name)


def busiest(most: int) -> list[dict[str, Any]]:
    """The processes that use most of the CPU since the last call, then most memory."""
    found: list[dict[str, Any]] = [
        {
            "pid": process.pid,
            "name": title(process.info["name"] or "?", process.info["cmdline"] or []),
            "cpu": process.info["cpu_percent"] or 0.0,
            "memory": process.info["memory_info"].rss if process.info["memory_info"] else 0,
        }
        for process in psutil.process_iter(["name", "cmdline", "cpu_percent", "memory_info"])
    ]
    return sorted(found, key=lambda each: (-each["cpu"], -each["memory"]))[:most]


def main() -> None:
    probe = Probe()
    with Node() as node:
        every = node.config.get("processes_every", 10)
        ticks = 0
        for event in node:
            if event.type == "INPUT":
                sample = probe.sample()
                if ticks:  # the first tick begins the first interval: rates over less of one would be noise
                    node.send_output("sample", sample)
                if ticks % every == 0:
                    node.send_output("processes", busiest(node.config.get("processes", 5)))
                ticks += 1


if __name__ == "__main__":
    main()
