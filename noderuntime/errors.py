"""The errors that users can see. Each carries its facts as attributes, and its text says what to do.

This module imports nothing else of noderuntime.
"""

from __future__ import annotations

from collections.abc import Sequence


class NodeRuntimeError(Exception):
    """The root of every error that noderuntime raises on purpose."""


class DataflowError(NodeRuntimeError):
    """A dataflow file that cannot be used.

    `file`, `line` and `column` say where (from 1; 0 if there is no such place), `what` is wrong, and `hint` says what
    would be right ("" for none). `more` holds further errors of the same file.
    """

    def __init__(
        self,
        what: str,
        *,
        file: str = "",
        line: int = 0,
        column: int = 0,
        hint: str = "",
        more: Sequence[DataflowError] = (),
    ) -> None:
        self.what = what
        self.file = file
        self.line = line
        self.column = column
        self.hint = hint
        self.more = tuple(more)
        place = ":".join(str(part) for part in (file, line, column) if part)
        text = f"{place}: {what}" if place else what
        own = f"{text}\n  {hint}" if hint else text
        super().__init__("\n".join((own, *map(str, self.more))))


class UnknownOutput(NodeRuntimeError):
    """`send_output` named an output that the dataflow file does not declare for this node."""

    def __init__(self, node: str, output: object, outputs: list[str]) -> None:
        self.node = node
        self.output = output
        self.outputs = outputs
        known = ", ".join(outputs) or "none"
        super().__init__(
            f"node {node!r} has no output {output!r}; its outputs are: {known}. "
            f"Add it to `outputs:` of {node!r} in the dataflow file, or send to one of these."
        )


class UnknownTopic(NodeRuntimeError):
    """A tap asked for a topic that no node of the run sends."""

    def __init__(self, run: str, what: str) -> None:
        self.run = run
        self.what = what
        super().__init__(f"run {run!r}: {what}")


class StateNotAvailable(NodeRuntimeError):
    """A custom node asked for private state, which only operators have."""

    def __init__(self, node: str, call: str) -> None:
        self.node = node
        self.call = call
        super().__init__(
            f"{call}: saving and restoring state belong to operators, and {node!r} is a custom node. "
            "Write it as an operator, or share values with kvs_write and kvs_read."
        )


class StoreError(NodeRuntimeError):
    """The space, or a kind of State, could not carry out an operation."""


class StoreFull(StoreError):
    """The space has no room. Nothing was written.

    Raise `state: size:` in the dataflow file, lower queue limits, or wait for the receivers to catch up. With `on_disk`
    it is the file system of the space that has no room: make some there.
    """

    def __init__(self, size_bytes: int = 0, used_bytes: int = 0, why: str = "", on_disk: bool = False) -> None:
        self.size_bytes = size_bytes
        self.used_bytes = used_bytes
        self.why = why
        self.on_disk = on_disk
        if on_disk:
            super().__init__(f"no room is left for the space: {why}. See `df` of /dev/shm, or of $NODERUNTIME_HOME.")
            return
        facts = why or f"{used_bytes} of {size_bytes} bytes are in use"
        super().__init__(
            f"the space is full: {facts}. Raise `state: {{size: ...}}` in the dataflow file, "
            "lower `queue_size`/`queue_bytes`, or wait until the receivers catch up."
        )


class KeyTooLong(StoreError):
    """A key is longer than the store can hold."""

    def __init__(self, key: str, size_bytes: int, limit_bytes: int) -> None:
        self.key = key
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            f"the key {key[:40]!r}{'...' if len(key) > 40 else ''} has {size_bytes} bytes as UTF-8; "
            f"the limit is {limit_bytes}. Use a shorter key, for instance a hash of it."
        )


class ValueTooLarge(StoreError):
    """A value, or a message, is larger than allowed."""

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        self.what = what
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            f"{what} has {size_bytes} bytes; the limit is {limit_bytes}. "
            "Split it over several keys or messages, or store it outside and keep a reference."
        )


class RevisionConflict(StoreError):
    """A compare-and-set found another revision than expected. Nothing was written: read again and retry."""

    def __init__(self, key: str, expected: int, found: int) -> None:
        self.key = key
        self.expected = expected
        self.found = found
        super().__init__(
            f"key {key!r} has revision {found}, not the expected {expected}: "
            "another writer was first. Read it again and retry."
        )


class HistoryLost(StoreError):
    """`diff` was asked about a version that the history no longer reaches. Start from `get_root()` instead."""

    def __init__(self, since: str) -> None:
        self.since = since
        super().__init__(
            f"version {since!r} is unknown or older than the history that is kept. "
            "Start over from the whole (get_root(), or `noderuntime state diff` without a version), or raise "
            "`state: {history: ...}`."
        )


class ResumeRefused(StoreError):
    """`--resume` would lose state or messages. Use `--drop NODE` to give them up, or `--rename OLD=NEW`."""

    def __init__(self, what: str, hint: str) -> None:
        self.what = what
        self.hint = hint
        super().__init__(f"{what}\n  {hint}")


class ChangeRefused(StoreError):
    """`apply` would lose state, dead letters or messages. Nothing was changed; the text says what gives them up."""

    def __init__(self, what: str, hint: str) -> None:
        self.what = what
        self.hint = hint
        super().__init__(f"{what}\n  {hint}")


class StoreUnreachable(StoreError):
    """An external store does not answer. Later calls try again, and succeed once it is back."""

    def __init__(self, store: str, why: str, within_s: float) -> None:
        self.store = store
        self.why = why
        self.within_s = within_s
        super().__init__(
            f"{store} could not be reached within {within_s:g} seconds: {why}. "
            "Start it, or correct `url` in the `state:` section; later calls try again."
        )


class SnapshotCorrupt(StoreError):
    """A snapshot is torn, altered or incomplete. It is never restored."""

    def __init__(self, snapshot: str, what: str) -> None:
        self.snapshot = snapshot
        self.what = what
        super().__init__(f"snapshot {snapshot} cannot be used: {what}. Choose another one with `--from`.")


class ProtocolError(NodeRuntimeError):
    """Bytes that are not a message of our protocol. The receiver counts and drops them."""


class OperatorError(NodeRuntimeError):
    """An operator could not be loaded, raised an exception, or returned a wrong value.

    `where` is one of import, init, restore_state, on_event, produce; `error` is one line, `trace` the user's traceback.
    `node`: which operator of a shared process it was.
    """

    def __init__(self, where: str, error: str, trace: str = "", node: str = "") -> None:
        self.where = where
        self.error = error
        self.trace = trace
        self.node = node
        super().__init__(f"{where}: {error}")


class NotRunning(NodeRuntimeError):
    """No run or node of that name answers."""

    def __init__(self, what: str, hint: str = "See `noderuntime ps -a`.") -> None:
        self.what = what
        super().__init__(f"{what}. {hint}" if hint else what)


class Fenced(NodeRuntimeError):
    """This process belongs to an incarnation that has been replaced: it must exit without writing anything."""
