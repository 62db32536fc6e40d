"""Names of nodes, inputs, outputs and runs: which are allowed, what is wrong with others, and which are similar."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping

RESERVED = frozenset({"shared", "timer", "dora"})
HELPER = "~"  # in the ids of nodes that are in no file: what they have is their own affair, and may be dropped
ID_CHARACTERS_MAX = 200
DIRECTORY_NAME_BYTES_MAX = 60

_ID = re.compile(r"[A-Za-z0-9_.-]+")


def id_problem(name: object) -> str | None:
    """Why `name` cannot be a node, input or output id; None when it can."""
    if not isinstance(name, str):
        return f"an id is a text, not {type(name).__name__}"
    if not name:
        return "an id must not be empty"
    if not _ID.fullmatch(name):
        return f"the id {name[:80]!r} may hold only letters, digits, '_', '.' and '-'"
    if name.startswith("."):
        return f"the id {name!r} must not start with '.'"
    if len(name) > ID_CHARACTERS_MAX:
        return f"the id {name[:40] + '...'!r} has {len(name)} characters; at most {ID_CHARACTERS_MAX} are allowed"
    return None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that the user most likely meant by `name`, or None if none is similar."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def directory_name(run: str) -> str:
    """The folder name of a run: its name if that is short and plain, otherwise shortened and with a hash."""
    if len(run.encode()) <= DIRECTORY_NAME_BYTES_MAX and id_problem(run) is None:
        return run
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", run).lstrip(".")[:40]
    return f"{plain}-{hashlib.sha256(run.encode()).hexdigest()[:12]}"


def replica_id(node: str, replica: int) -> str:
    return f"{node}[{replica}]" if replica else node


def node_of(id: str) -> str:
    """The id in the file of a replica."""
    return id.partition("[")[0]


def replica_of(id: str) -> int:
    """The number of a replica."""
    return int(id.partition("[")[2].rstrip("]") or 0)


def renamed_id(names: Mapping[str, str], id: str) -> str:
    """The id that a node, or one of its replicas, has when nodes of the file are called otherwise (old -> new)."""
    node, bracket, replica = id.partition("[")
    return f"{names.get(node, node)}{bracket}{replica}"


def renamed_source(names: Mapping[str, str], source: str) -> str:
    """The same for a source "node/output"; "" and timers stay."""
    node, slash, output = source.rpartition("/")
    return f"{renamed_id(names, node)}{slash}{output}" if slash else source


def shown_id(id: str, replicas: int) -> str:
    """What a log line calls a replica: sums[0], sums[1]; a node that has no replicas by its id."""
    return f"{id}[0]" if replicas > 1 and "[" not in id else id
