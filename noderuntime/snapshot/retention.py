"""Which snapshots a place keeps, and which one `--resume` takes. Pure.

A place holds the snapshots of several runs, one after the other: each run that starts anew begins with a run id of its
own, and what resumes it keeps that id. These stay:

- the newest `keep` of all runs, from which `--resume` continues;
- of each run the last one, for as long as it holds something unsettled: dead letters, or messages that
  `dead-letters replay --from` has put back and `run --from` has not yet continued with.

`dead-letters replay|drop --from` changes a run that is not the newest. What it makes is the last snapshot of that run,
but it is kept **aside**: `--resume` does not take it, and it does not count among the newest. So no command on an
earlier run costs the newest one anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from noderuntime.snapshot.format import REPLAYED, Manifest


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides about a snapshot. `unsettled`: it holds dead letters, or messages that were put back aside."""

    run_id: str
    unsettled: bool


FactsOf = Callable[[Manifest], Facts]


@dataclass(frozen=True, slots=True)
class Kept:
    """Numbers of snapshots, the newest first. `newest`: the newest ones; `unsettled`: older ones that must stay."""

    newest: tuple[int, ...]
    unsettled: tuple[int, ...]

    @property
    def all(self) -> set[int]:
        return {*self.newest, *self.unsettled}


def letters_at(manifest: Manifest) -> dict[str, int]:
    """How many dead letters there were at a snapshot, by node; only nodes that had some."""
    found = {id: int(node.get("dead_letters", 0)) for id, node in manifest.counts.items()}  # older ones do not say
    return {id: count for id, count in found.items() if count}


def letters_by_node(manifest: Manifest) -> str:
    """letters_at for people. Manifests before format 3 may not say how many there were, and where."""
    return by_node(letters_at(manifest)) or "their number is not known"


def by_node(counts: Mapping[str, int]) -> str:
    """How many there are of each node, for people."""
    return ", ".join(f"{count} of {node}" for node, count in counts.items())


def facts_of(manifest: Manifest) -> Facts:
    """The facts that a manifest tells since format 3. For older ones see older.Looked."""
    return Facts(manifest.run_id or manifest.writer, bool(letters_at(manifest)) or manifest.why == REPLAYED)


def newest(manifests: Iterable[Manifest]) -> list[Manifest]:
    """Those that `--resume` may take, in the order given."""
    return [manifest for manifest in manifests if not manifest.aside]


def unsettled(manifests: Iterable[Manifest], facts: FactsOf) -> list[Manifest]:
    """Of each run the last one, if it holds something unsettled. The newest of all first, and so the result."""
    seen: set[str] = set()
    found = []
    for manifest in manifests:
        told = facts(manifest)
        if told.unsettled and told.run_id not in seen:
            found.append(manifest)
        seen.add(told.run_id)
    return found


def to_keep(known: Mapping[int, Manifest | None], keep: int, facts: FactsOf) -> Kept:
    """What stays of the snapshots `known`, by number; None for a damaged manifest, which counts among the newest.

    `facts` is asked only where that decides: for snapshots of older formats it has to read them.
    """
    numbers = sorted(known, reverse=True)
    counted = [number for number in numbers if (manifest := known[number]) is None or not manifest.aside]
    first = tuple(counted[: max(1, keep)])
    must_stay = tuple(number for number in numbers if number not in first and _is_unsettled(known, number, facts))
    return Kept(first, must_stay)


def _is_unsettled(known: Mapping[int, Manifest | None], number: int, facts: FactsOf) -> bool:
    manifest = known[number]
    if manifest is None or not (told := facts(manifest)).unsettled:
        return False
    later = (item for other, item in known.items() if other > number and item is not None)
    return not any(facts(item).run_id == told.run_id for item in later)
