"""`ChainHarness`: operators that share a process (`process:` in the dataflow file) in pytest, without processes."""

from __future__ import annotations

import datetime as dt
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from noderuntime.api.events import Event, input_event, notice, tick_event
from noderuntime.api.operator import Source, Status
from noderuntime.node.chain import Chain, InnerInput, measure
from noderuntime.space.records import decode_message, encode_message
from noderuntime.testing.harness_context import SharedKVS, Staged
from noderuntime.testing.lives import Lives, Sent, nanoseconds

EVENT_BYTES_MAX: Final = 1 << 24  # of what one event makes inside; a run takes it from the size of its space

_Inside = InnerInput[Lives]


@dataclass(frozen=True, slots=True)
class _Entering:
    """An event that enters at `member`. `call(attempt)` runs its handler. `link`: in whose mailbox inside it lies."""

    member: Lives
    call: Callable[[int], Any]
    is_message: bool = False
    fused: bool = True
    attempt: int = 1
    link: _Inside | None = None


class ChainHarness:
    """Runs operators that share a process, event by event: what an event makes inside is part of its transaction.

    - `operators`: id -> its class, or a callable that makes one, as for Harness.
    - `links`: an input inside -> the output that feeds it, {"sums/n": "parse/n"}. The test feeds all other inputs.
    - `config`, `state`: of each operator, by id.
    - `drop_oldest`: the inputs of `links` that have this policy: a message there is an event of its own.
    - `kvs`: the shared KVS, as for Harness.

    An exception of a handler passes through the call that delivered the event. Then nothing of that event is committed,
    at any operator; `failed` is the id of the one that raised; and all are dead, as their process would be.
    `redeliver()` is what a run does next: a new life handles the same event, and one that is no message is then handled
    alone, and what it makes inside one message a commit. Any other call starts a new life, too, but skips that event.
    """

    def __init__(
        self,
        operators: Mapping[str, Callable[..., Any]],
        links: Mapping[str, str],
        *,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        state: Mapping[str, Mapping[str, bytes]] | None = None,
        drop_oldest: Iterable[str] = (),
        kvs: Mapping[str, bytes] | None = None,
    ) -> None:
        self.kvs = kvs if isinstance(kvs, SharedKVS) else SharedKVS(kvs)
        self.failed = ""
        self.commits = 0
        run_id = secrets.token_hex(8)
        self._members = {
            id: Lives(made, id, run_id, (config or {}).get(id, {}), None, self.kvs, (state or {}).get(id, {}))
            for id, made in operators.items()
        }
        self._ended: set[str] = set()
        drops = set(drop_oldest)
        if unknown := sorted(drops - set(links)):
            raise ValueError(f"drop_oldest has {unknown[0]!r}, which is no input of `links`")
        self._chain: Chain[Lives] = Chain(EVENT_BYTES_MAX)
        self._fed: dict[str, list[_Inside]] = {}  # by output
        self._mailboxes: dict[_Inside, deque[tuple[int, _Entering]]] = {}  # with the order over all of them
        for to, source in links.items():
            member, name = self._place(to)
            self._place(source)
            link = _Inside(member, name, source, to in drops)
            self._fed.setdefault(source, []).append(link)
            self._mailboxes[link] = deque()
        measure([(self._place(link.source)[0], link) for link in self._mailboxes if not link.drops])
        self._order = 0
        self._alive = True
        self._unfused = False
        self._in_hand: _Entering | None = None  # set while an event is not committed
        self._begin()

    # -- what happens to the operators --

    def send(self, to: str, value: Any, metadata: Mapping[str, Any] | None = None, *, crashes: int = 0) -> None:
        """A message comes from outside to the input `to` ("node/input"). The first `crashes` lives of the process die
        after the last handler and before the commit.
        """
        member, input = self._place(to)
        source = f"test/{input}"
        number = member.count(source)
        record, _ = encode_message(value, metadata, number, nanoseconds(self.kvs.now))
        call = partial(self._message, member, input, source, record)
        self._enter(_Entering(member, call, is_message=True), crashes)

    def tick(self, to: str) -> None:
        """A timer input ("node/input") is due now."""
        member, input = self._place(to)
        event = tick_event(input, "timer", nanoseconds(self.kvs.now), 1)
        self._enter(_Entering(member, lambda attempt: self._call(member, event)))

    def close_input(self, to: str) -> None:
        """The last message of an input ("node/input") that the test feeds has been handled."""
        member, input = self._place(to)
        self._enter(_Entering(member, lambda attempt: self._call(member, notice("INPUT_CLOSED", input))))

    def produce(self, node: str) -> Any:
        """One call of the `produce` of a Source, committed with what it makes. Returns what it returned."""
        member = self._member(node)
        if node in self._ended:
            return Source.END
        return self._enter(_Entering(member, lambda attempt: self._produce(member)))

    def stop(self, node: str = "", id: str = "MANUAL") -> None:
        """STOP for one operator, or, one after the other, for all: the run stops (MANUAL), or all inputs have ended
        (ALL_INPUTS_CLOSED). What it sends then are events of their own. The operator ends.
        """
        for member in [self._member(node)] if node else list(self._members.values()):
            self._enter(_Entering(member, partial(self._finish, member, id), fused=False))

    def crash(self) -> None:
        """The process is killed between two events; a new life of all restores the committed states."""
        self._skip()
        self._start()

    def redeliver(self) -> Any:
        """After a handler raised: a new life gets the same event, its `attempt` one higher."""
        hand = self._in_hand
        if hand is None:
            raise RuntimeError("redeliver(): the last event was committed, so nothing would come again")
        self._unfused |= not hand.is_message
        returned = self._handle(replace(hand, attempt=hand.attempt + 1))
        self._empty_mailboxes()
        return returned

    def advance(self, seconds: float) -> None:
        """Let time pass, as Harness does."""
        self.kvs.now += dt.timedelta(seconds=seconds)

    # -- what can be seen --

    def outputs(self, output: str) -> list[Any]:
        """The committed values of an output ("node/output"), oldest first, whoever receives them."""
        node, _, name = output.rpartition("/")
        return [sent.value for sent in self._member(node).sent if sent.output == name]

    def sent(self, node: str) -> list[Sent]:
        """The committed messages of one operator, oldest first."""
        return self._member(node).sent

    def state(self, node: str) -> dict[str, bytes]:
        """The committed private state of one operator."""
        return self._member(node).state

    def ended(self, node: str) -> bool:
        """Whether an operator has ended, with a commit."""
        return self._member(node).node_id in self._ended

    @property
    def incarnation(self) -> int:
        """Of the process, and so of each of its operators."""
        return next(iter(self._members.values())).incarnation

    def _member(self, node: str) -> Lives:
        if node not in self._members:
            raise ValueError(f"there is no operator {node!r}; there are: {', '.join(self._members)}")
        return self._members[node]

    def _place(self, place: str) -> tuple[Lives, str]:
        node, slash, name = place.rpartition("/")
        if not slash:
            raise ValueError(f"{place!r}: write it as NODE/INPUT, or NODE/OUTPUT")
        return self._member(node), name

    # -- lives --

    def _start(self) -> None:
        for member in self._members.values():
            member.start()
        self._alive = True
        self._look_at_mailboxes()
        self._unfused |= bool(self._chain.waiting)  # as in a run: what waits may be what the last life has failed on

    def _skip(self) -> None:
        """The event in hand is not handled again: in a run it would be a dead letter."""
        hand, self._in_hand = self._in_hand, None
        if hand is not None and hand.link is not None:
            self._mailboxes[hand.link].popleft()

    # -- events, and what they leave in the mailboxes inside --

    def _enter(self, event: _Entering, crashes: int = 0) -> Any:
        self._skip()
        self._empty_mailboxes()
        if event.member.node_id in self._ended:  # as in a run: events after the end are discarded
            return None
        for doomed in range(crashes):
            self._transact(replace(event, attempt=1 + doomed), commits=False)
            self._start()
        returned = self._handle(replace(event, attempt=1 + crashes))
        self._empty_mailboxes()
        return returned

    def _handle(self, event: _Entering) -> Any:
        self._in_hand = event
        returned = self._transact(event)
        self._in_hand = None
        return returned

    def _empty_mailboxes(self) -> None:
        while True:
            self._look_at_mailboxes()
            if not self._chain.waiting:
                self._unfused = False
            first = self._chain.first() or [link for link, mailbox in self._mailboxes.items() if mailbox]
            if not first:
                return
            link = min(first, key=lambda link: self._mailboxes[link][0][0])
            _, event = self._mailboxes[link][0]
            if link.receiver.node_id in self._ended:
                self._mailboxes[link].clear()
                continue
            self._handle(event)

    def _look_at_mailboxes(self) -> None:
        for link, mailbox in self._mailboxes.items():
            if mailbox:
                self._chain.passed_on(link)
            elif link.waits:
                self._chain.emptied(link)

    # -- a transaction --

    def _begin(self) -> None:
        shared = Staged().shared  # what one of them stages of it, all of them see
        self._staged = {id: member.begin() for id, member in self._members.items()}
        for staged in self._staged.values():
            staged.shared = shared
        self._numbers: dict[str, int] = {}  # of messages that are not committed, by output
        self._passed: list[tuple[_Inside, _Entering]] = []
        self._ending: list[Lives] = []

    def _transact(self, event: _Entering, commits: bool = True) -> Any:
        if not self._alive:
            self._start()
        self._look_at_mailboxes()
        self._chain.enter(event.fused and not self._unfused, event.attempt)
        self._begin()
        self._alive = False  # unless all handlers return
        try:
            returned = event.call(event.attempt)
            queue = self._chain.queue
            while queue:
                to, message = queue.popleft()
                if to.receiver.node_id not in self._ended and to.receiver not in self._ending:
                    self._call(to.receiver, message)
        finally:
            for member in self._members.values():
                member.give_up()
        self._alive = True
        if commits:
            self._commit(event)
        return returned

    def _commit(self, event: _Entering) -> None:
        self.commits += 1
        if event.link is not None:
            self._mailboxes[event.link].popleft()
        first = True
        for id, staged in self._staged.items():
            if not first:
                staged.shared = {}  # that of the first one is that of all
            first = False
            self._members[id].commit(staged)
        for member in self._ending:
            self._ended.add(member.node_id)
            outputs = [links for source, links in self._fed.items() if self._place(source)[0] is member]
            for link in (link for links in outputs for link in links):
                call = partial(self._closed, link)
                self._passed.append((link, _Entering(link.receiver, call, link=link)))
        for link, entering in self._passed:
            self._order += 1
            self._mailboxes[link].append((self._order, entering))

    # -- handlers --

    def _message(self, member: Lives, input: str, source: str, record: bytes, attempt: int) -> None:
        self._call(member, _event_of(input, source, record, attempt))

    def _closed(self, link: _Inside, attempt: int) -> None:
        self._call(link.receiver, notice("INPUT_CLOSED", link.name))

    def _finish(self, member: Lives, id: str, attempt: int) -> None:
        self._ending.append(member)  # before the handler, so that its own Status changes nothing
        self._call(member, notice("STOP", id))

    def _produce(self, member: Lives) -> Any:
        returned = self._run(member, member.produce_once)
        if returned is Source.END:
            self._ending.append(member)
        return returned

    def _call(self, member: Lives, event: Event) -> None:
        status = self._run(member, partial(member.handle, event))
        if status is not Status.CONTINUE and member not in self._ending:
            self._ending.append(member)

    def _run(self, member: Lives, handler: Callable[[], Any]) -> Any:
        """Run a handler, and then decide where what it has sent goes."""
        messages = self._staged[member.node_id].messages
        before = len(messages)
        try:
            returned = handler()
        except BaseException:
            self.failed = member.node_id
            raise
        now_ns = nanoseconds(self.kvs.now)
        for at in range(before, len(messages)):
            output, record = messages[at]
            source = f"{member.node_id}/{output}"
            number = self._numbers[source] = self._numbers.get(source, member.numbers.get(output, 0)) + 1
            _, value, metadata, _, _ = decode_message(record)
            stamped, _ = encode_message(value, metadata, number, now_ns)
            for link in self._fed.get(source, ()):
                if self._chain.takes(link):
                    event = _event_of(link.name, source, stamped, self._chain.attempt)
                    self._chain.put(link, event, len(stamped))
                else:
                    self._chain.passed_on(link)
                    call = partial(self._message, link.receiver, link.name, source, stamped)
                    self._passed.append((link, _Entering(link.receiver, call, is_message=True, link=link)))
        return returned


def _event_of(input: str, source: str, record: bytes, attempt: int) -> Event:
    """The event of a message. Decoded for each receiver: none sees what another one changes."""
    _, value, metadata, number, sent_ns = decode_message(record)
    return input_event(input, value, metadata, source, sent_ns, number, attempt)
