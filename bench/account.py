"""Where the time of one hop goes: its stages from `send_output` to the receiver's `on_event`."""

from __future__ import annotations

from bench.measure import Row, Section, p50, us
from bench.systems import interleave, ours, result, scratch

COUNT = 600
WARMUP = 100
ROUNDS = 3
RUN_S = 60.0

STAGES = {  # name -> (from, to); a mark of the sender is "s:..."
    "encoding, the end of the handler, until the commit begins": ("sent", "s:commit begins"),
    "the commit": ("s:commit begins", "s:commit ends"),
    "until the ring": ("s:commit ends", "s:ring begins"),
    "the ring: a write to the FIFO": ("s:ring begins", "s:ring ends"),
    "from the ring's beginning until the receiver has woken up": ("s:ring begins", "woken"),
    "its loop, until it reads": ("woken", "read begins"),
    "reading the mailbox": ("read begins", "read ends"),
    "decoding, making the event, until on_event": ("read ends", "handled"),
    "all of it": ("sent", "handled"),
}


def hops() -> list[dict[str, int]]:
    """The marks of each hop of one round."""
    with scratch() as folder, ours("account.yml", folder, BENCH_COUNT=COUNT) as run:
        run.wait(RUN_S)
        sender = result(folder, "sender")
        receiver = result(folder, "receiver")
    found = []
    # the marks that the sender kept at tick k + 1 are those of send k
    for there, here in zip(sender[WARMUP + 1 :], receiver[WARMUP:], strict=False):
        found.append(here | {f"s:{name}": ns for name, ns in there.items()})
    return found


def measure(rounds: int) -> Section:
    found = interleave(rounds, {"hops": hops})
    all_hops = [hop for hops_of_round in found["hops"] for hop in hops_of_round]
    whole = p50([hop["handled"] - hop["sent"] for hop in all_hops])
    rows = []
    for stage, (begin, end) in STAGES.items():
        took = p50([hop[end] - hop[begin] for hop in all_hops])
        rows.append(Row(stage, us(took), "", f"{took / whole:.0%}"))
    return Section("Where the time of one hop goes (p50 of each stage)", rows)
