"""`Harness`: an operator in pytest, without processes, with the semantics of a run.

    h = Harness(RunningSum, outputs=["sum"])
    h.send("n", 3)
    h.crash()
    h.send("n", 4)
    assert h.outputs("sum") == [3, 7]

What an event stages is visible to its own reads, is committed when the handler returns, and is discarded when
it raises. Values are encoded and decoded as on their way between two nodes. Time does not pass until
`advance`.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

from noderuntime.api.events import Event, input_event, kvs_update, notice, tick_event
from noderuntime.api.operator import (
    Idle,
    Source,
    Status,
)
from noderuntime.errors import UnknownOutput
from noderuntime.space.records import decode_message, encode_message
from noderuntime.testing.harness_context import SharedKVS
from noderuntime.testing.lives import Lives, nanoseconds

PRODUCE_CALLS_MAX: Final = 100_000


class Harness:
    """Runs one operator, or Source, event by event.

    - `operator`: its class, or a callable that makes one, without arguments or with `ctx`.
    - `config`: what `config:` holds in the dataflow file.
    - `outputs`: the declared outputs; sending to another raises UnknownOutput. None: all are allowed.
    - `kvs`: the shared KVS, a dict of bytes or another Harness's `kvs`.
    - `state`: the private state that an earlier run has left.
    - `run_id`: that of an earlier Harness whose run this one resumes. None: a new one.

    An exception of a handler passes through the call that delivered the event; nothing of that event is
    committed, and the operator is dead, as its process would be. `redeliver()` is what a run does next: a new
    life handles the same event. Any other call starts a new life, too, but skips that event.
    """

    def __init__(
        self,
        operator: Callable[..., Any],
        *,
        config: Mapping[str, Any] | None = None,
        outputs: Iterable[str] | None = None,
        kvs: Mapping[str, bytes] | None = None,
        state: Mapping[str, bytes] | None = None,
        node_id: str = "operator",
        run_id: str | None = None,
    ) -> None:
        if not callable(operator):
            raise TypeError(f"Harness({operator!r:.80}): give its class: each life makes a new one")
        self.kvs = kvs if isinstance(kvs, SharedKVS) else SharedKVS(kvs)
        self.node_id = node_id
        self.run_id = secrets.token_hex(8) if run_id is None else run_id
        self.declared = None if outputs is None else list(outputs)
        self._lives = lives = Lives(operator, node_id, self.run_id, config or {}, self.declared, self.kvs, state or {})
        self.config, self.state, self.sent, self.watched = lives.config, lives.state, lives.sent, lives.watched
        self.ended = False
        self._seen = self.kvs.revision
        self._in_hand: tuple[Callable[[int], Event], int] | None = None  # set while an event is not committed

    # -- what happens to the operator --

    def send(
        self, input: str, value: Any, metadata: Mapping[str, Any] | None = None, *, crashes: int = 0
    ) -> Status:
        """A message arrives at `input`. The first `crashes` lives die between handler and commit."""
        source = f"test/{input}"
        number = self._lives.count(source)
        record, _ = encode_message(value, metadata, number, nanoseconds(self.now))

        def event(attempt: int) -> Event:
            _, carried, its_metadata, number, sent_ns = decode_message(record)
            return input_event(input, carried, its_metadata, source, sent_ns, number, attempt)

        return self._deliver(event, crashes)

    def tick(self, input: str = "tick") -> Status:
        """A timer input is due now."""
        due_ns = nanoseconds(self.now)
        return self._deliver(lambda attempt: tick_event(input, "timer", due_ns, attempt))

    def close_input(self, id: str) -> Status:
        """The last message of `id` has been handled."""
        return self.notice("INPUT_CLOSED", id)

    def notice(self, type: str, id: str, error: str | None = None) -> Status:
        """INPUT_CLOSED, INPUT_RECOVERED, STOP; with an error: NODE_RESTARTED, NODE_FAILED."""
        return self._deliver(lambda attempt: notice(type, id, error))

    def update(self) -> int:
        """Hand out, as KVS_UPDATE events, the changes of watched keys since the last call. Returns how many."""
        news = [
            (revision, key)
            for key, revision in self.kvs.changed.items()
            if revision > self._seen and any(key.startswith(prefix) for prefix in self.watched)
        ]
        for revision, key in sorted(news):
            event = kvs_update(key, self.kvs.get(key), revision)
            self._deliver(lambda attempt, event=event: event)  # type: ignore[misc]
            self._seen = revision
        self._seen = max(self._seen, self.kvs.revision)
        return len(news)

    def stop(self, id: str = "MANUAL") -> Status:
        """The run stops (MANUAL), or all inputs have ended (ALL_INPUTS_CLOSED). The operator ends."""
        status = self.notice("STOP", id)
        self.ended = True
        return status

    def crash(self) -> None:
        """The process is killed between two events; a new life restores the committed state."""
        self._in_hand = None
        self._lives.start()

    def redeliver(self) -> Status:
        """After a handler raised: a new life gets the same event, its `attempt` one higher."""
        if self._in_hand is None:
            raise RuntimeError("redeliver(): the last event was committed, so nothing would come again")
        event, attempt = self._in_hand
        return self._deliver(event, attempt=attempt + 1)

    def produce(self, *, crashes: int = 0) -> Any:
        """One call of a Source's `produce`, committed. Returns what it returned."""
        if self.ended:
            return Source.END
        for _ in range(crashes):
            self._transact(self._lives.produce_once, commit=False)
            self._lives.start()
        returned = self._transact(self._lives.produce_once)
        self.ended = returned is Source.END
        return returned

    def produce_all(self) -> None:
        """`produce` until it says END or IDLE."""
        for _ in range(PRODUCE_CALLS_MAX):
            returned = self.produce()
            if returned is Source.END or isinstance(returned, Idle):
                return
        raise RuntimeError(f"produce was called {PRODUCE_CALLS_MAX} times and has not come to an end")

    def advance(self, seconds: float) -> None:
        """Let time pass: for timestamps, ticks and the time to live of shared keys."""
        self.kvs.now += dt.timedelta(seconds=seconds)

    # -- what can be seen --

    @property
    def now(self) -> dt.datetime:
        """The time of the Harness, shared with all that share its `kvs`."""
        return self.kvs.now

    @property
    def incarnation(self) -> int:
        return self._lives.incarnation

    @property
    def position(self) -> Any:
        """A Source's committed position; None at first."""
        return self._lives.position

    def outputs(self, name: str) -> list[Any]:
        """The committed values of one output, oldest first."""
        if self.declared is not None and name not in self.declared:
            raise UnknownOutput(self.node_id, name, self.declared)
        return [sent.value for sent in self.sent if sent.output == name]

    # -- a life, and a transaction --

    def _deliver(self, event: Callable[[int], Event], crashes: int = 0, attempt: int = 1) -> Status:
        if self.ended:  # as in a run: events after the end are discarded
            return Status.STOP
        last = attempt + crashes
        for doomed in range(attempt, last):
            self._transact(partial(self._lives.handle, event(doomed)), commit=False)
            self._lives.start()
        self._in_hand = event, last
        status: Status = self._transact(partial(self._lives.handle, event(last)))
        self._in_hand = None
        self.ended = status is not Status.CONTINUE
        return status

    def _transact(self, handler: Callable[[], Any], commit: bool = True) -> Any:
        lives = self._lives
        if not lives.alive:
            lives.start()
        staged = lives.begin()
        lives.alive = False  # unless the handler returns
        try:
            result = handler()
        finally:
            lives.give_up()
        lives.alive = True
        if commit:
            lives.commit(staged)
        return result
