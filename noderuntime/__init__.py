"""noderuntime: the dataflow runtime you can kill. What users import is here; everything else is internal.

Names are loaded when they are first used, so that `import noderuntime` costs an operator nothing it does not need.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noderuntime import merges as merges
    from noderuntime.api.events import Event as Event
    from noderuntime.api.keyed.operator import KeyedOperator as KeyedOperator
    from noderuntime.api.keyed.stateful_map import stateful_map as stateful_map
    from noderuntime.api.operator import Context as Context
    from noderuntime.api.operator import Operator as Operator
    from noderuntime.api.operator import Source as Source
    from noderuntime.api.operator import Status as Status
    from noderuntime.api.sources import iterable_source as iterable_source
    from noderuntime.errors import (
        DataflowError as DataflowError,
    )
    from noderuntime.errors import (
        HistoryLost as HistoryLost,
    )
    from noderuntime.errors import (
        KeyTooLong as KeyTooLong,
    )
    from noderuntime.errors import (
        NodeRuntimeError as NodeRuntimeError,
    )
    from noderuntime.errors import (
        NotRunning as NotRunning,
    )
    from noderuntime.errors import (
        OperatorError as OperatorError,
    )
    from noderuntime.errors import (
        ProtocolError as ProtocolError,
    )
    from noderuntime.errors import (
        RevisionConflict as RevisionConflict,
    )
    from noderuntime.errors import (
        SnapshotCorrupt as SnapshotCorrupt,
    )
    from noderuntime.errors import (
        StateNotAvailable as StateNotAvailable,
    )
    from noderuntime.errors import (
        StoreError as StoreError,
    )
    from noderuntime.errors import (
        StoreFull as StoreFull,
    )
    from noderuntime.errors import (
        StoreUnreachable as StoreUnreachable,
    )
    from noderuntime.errors import (
        UnknownOutput as UnknownOutput,
    )
    from noderuntime.errors import (
        UnknownTopic as UnknownTopic,
    )
    from noderuntime.errors import (
        ValueTooLarge as ValueTooLarge,
    )
    from noderuntime.node.custom_node import Node as Node
    from noderuntime.watching.tap import Omitted as Omitted
    from noderuntime.watching.tap import Tap as Tap

_HOMES = {
    "api.events": ["Event"],
    "api.keyed.stateful_map": ["stateful_map"],
    "api.keyed.operator": ["KeyedOperator"],
    "api.sources": ["iterable_source"],
    "node.custom_node": ["Node"],
    "watching.tap": ["Omitted", "Tap"],
    "api.operator": ["Context", "Operator", "Source", "Status"],
    "errors": [
        "DataflowError", "HistoryLost", "KeyTooLong", "NodeRuntimeError", "NotRunning", "OperatorError",
        "ProtocolError", "RevisionConflict", "SnapshotCorrupt", "StateNotAvailable", "StoreError",
        "StoreFull", "StoreUnreachable", "UnknownOutput", "UnknownTopic", "ValueTooLarge",
    ],
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

_NEEDED = frozenset({"lmdb", "msgpack", "numpy", "pyarrow", "yaml", "zmq"})

__version__ = "0.1.0"
__all__ = sorted([*_HOME_OF, "merges"])


def __getattr__(name: str) -> Any:
    if name == "merges":
        return importlib.import_module("noderuntime.merges")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'noderuntime' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"noderuntime.{home}"), name)
    except Exception as error:  # an AttributeError would become "cannot import name", and hide why
        hiding = _hiding()
        if not hiding:
            raise ImportError(f"noderuntime.{name} cannot be imported: {type(error).__name__}: {error}") from error
        raise ImportError(
            f"noderuntime.{name} cannot be imported, because {hiding} hides another module of that name. Rename that "
            f"file ({type(error).__name__}: {error})",
            path=hiding,
        ) from None
    globals()[name] = value
    return value


def _hiding() -> str:
    """The file of a loaded module that has the name of one of the standard library's, or of one that we need, and lies
    elsewhere: with the user's program, say. "" when there is none."""
    library = os.path.realpath(os.__file__).rpartition(os.sep)[0] + os.sep
    beside = os.path.realpath(sys.path[0]) + os.sep if sys.path and sys.path[0] else ""
    for name in sorted((sys.stdlib_module_names | _NEEDED) & sys.modules.keys()):
        file = getattr(sys.modules[name], "__file__", None)
        if not file or name == "__main__":
            continue
        place = os.path.realpath(file)
        if (beside and place.startswith(beside)) if name in _NEEDED else not place.startswith(library):
            return str(file)
    return ""


def __dir__() -> list[str]:
    return __all__
