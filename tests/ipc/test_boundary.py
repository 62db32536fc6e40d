"""boundary.py, and the boundaries in one process: whatever is raised across one, the caller goes on."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import random
import shutil
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
from support import absurd
from support.kit import CHAIN, MB, Net
from support.procs import wait_until

from noderuntime.errors import ProtocolError, StoreUnreachable
from noderuntime.ipc import protocol
from noderuntime.ipc.boundary import Boundary, all_of, cut, describe, plain
from noderuntime.ipc.protocol import FRAME_BYTES_MAX, VERSION, Edge, Log, Reply, Request, decode, encode, refusal
from noderuntime.ipc.store_records import (
    Done,
    Figures,
    Letters,
    Opened,
    Progress,
    Queues,
    Read,
    Ticket,
    Waiting,
    claim_result,
    result,
)
from noderuntime.node.remote_log import LogHandler
from noderuntime.node.user_code import user_trace
from noderuntime.runtime import logs
from noderuntime.runtime.children import Child
from noderuntime.runtime.ending import keep_letters
from noderuntime.runtime.logs import RunLog, RunLogs, record_of
from noderuntime.runtime.observer import LogRecord
from noderuntime.space import outbox
from noderuntime.space.kvs import SharedWrite
from noderuntime.state import kinds
from noderuntime.state.common import TableState
from noderuntime.store import external_watches, startup
from noderuntime.store.external import ExternalRequests
from noderuntime.store.external_watches import Watches
from noderuntime.store.outbox import OutboxThread
from noderuntime.store.startup import Start


class OurEnd(Exception):
    pass


def raises(error: BaseException) -> None:
    raise error


# --- boundary.py ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("x"), RecursionError(), struct.error("x"), MemoryError(), UnicodeError()])
def test_whatever_is_raised_is_caught_counted_and_told_once(error: Exception) -> None:
    told: list[str] = []
    boundary = Boundary(told.append, passes=(OurEnd,))
    assert boundary.call("a message", raises, error) is error
    assert boundary.call("a message", raises, error) is error
    assert boundary.call("a message", len, "x") is None
    assert boundary.caught == 2
    (text,) = told
    assert text.startswith("a message: ") and type(error).__name__.rpartition(".")[2] in text
    assert "test_boundary.py:" in text


def test_what_means_our_own_end_passes() -> None:
    boundary = Boundary(lambda text: None, passes=(OurEnd,))
    for error in (OurEnd(), SystemExit(3), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            boundary.call("a message", raises, error)


def test_a_place_to_tell_that_fails_ends_nothing() -> None:
    boundary = Boundary(lambda text: raises(OSError("closed")))
    boundary.call("a message", raises, ValueError())
    assert boundary.caught == 2


def test_all_calls_are_made_and_the_first_error_is_raised() -> None:
    made: list[int] = []
    calls = [made.append, raises, made.append, raises, made.append]
    given: list[Any] = [1, ValueError("first"), 2, KeyError("second"), 3]
    with pytest.raises(ValueError, match="first"):
        all_of(partial(call, item) for call, item in zip(calls, given, strict=True))
    assert made == [1, 2, 3]
    all_of([])


def test_an_action_that_fails_keeps_no_other_action_and_no_event_from_its_place() -> None:
    done: list[Any] = []
    actions = {"first": ["fails", "a"], "second": ["b"]}

    class Recorded(Child):
        def _do(self, action: Any) -> None:
            done.append(action)
            if action == "fails":
                child.feed("second")
                raise ValueError("fails")

    services: Any = SimpleNamespace(clock=lambda: 0.0)
    machine: Any = SimpleNamespace(state=0, handle=lambda event, now_s: actions[event])
    nothing: Any = None
    child: Any = Recorded(services, nothing, machine, nothing, nothing, -1)
    with pytest.raises(ValueError, match="fails"):
        child.feed("first")
    assert done == ["fails", "a", "b"]
    assert not child._handling


def test_a_long_text_keeps_its_beginning_and_its_end_and_is_utf_8() -> None:
    text = cut("head" + "\ud800" * 300_000 + "tail", 1000)
    assert text.startswith("head") and text.endswith("tail")
    assert len(text.encode()) < 1100
    assert cut("short", 1000) == "short"


class Unfriendly:
    def __repr__(self) -> str:
        raise ValueError("no")

    __str__ = __repr__


def test_any_value_becomes_one_that_json_and_messagepack_carry() -> None:
    looped: list[Any] = []
    looped.append(looped)
    odd = {b"k": 1, ("t",): {1, 2} & {2}, "n": 10**5000, "\ud800": float("nan"), "u": Unfriendly(), "l": looped,
           "deep": absurd.nested(5000), "many": list(range(10**6)), 1 << 70: -(1 << 70)}  # fmt: skip
    made = plain(odd)
    text = json.dumps(made, allow_nan=False).encode()
    assert len(text) < 200_000
    assert len(msgpack.packb(made)) < 200_000
    assert made["b'k'"] == 1
    assert plain({"a": [1, 2.5, None, True, "x", {"b": 1}]}) == {"a": [1, 2.5, None, True, "x", {"b": 1}]}


# --- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["\ud800", 1 << 70, Unfriendly(), absurd.nested(100_000)])
def test_a_message_that_cannot_be_packed_is_a_protocol_error(value: Any) -> None:
    with pytest.raises(ProtocolError):
        encode(Log(0.0, 20, "text", {"field": value}))


def test_a_refusal_always_fits_into_a_frame() -> None:
    for error in (ValueError("x" * FRAME_BYTES_MAX), ProtocolError("\ud800" * FRAME_BYTES_MAX), Unhelpful()):
        assert len(encode(refusal(1, "y" * FRAME_BYTES_MAX, error))) < 100_000


class Unhelpful(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def test_errors_of_users_fit_into_a_frame() -> None:
    try:
        raise ValueError("x" * FRAME_BYTES_MAX + "\ud800")
    except ValueError as error:
        failed = protocol.Failed("on_event", describe(error), user_trace(error), False)
    assert len(encode(failed)) < 500_000


def test_an_answer_of_the_store_without_what_belongs_into_it_is_none() -> None:
    chance = random.Random(absurd.seed())
    readers: list[Read[Any]] = [claim_result]
    readers += [result(kind) for kind in (Opened, Queues, Figures, Letters, Waiting, Ticket, Progress)]
    for read in readers:
        with pytest.raises(ProtocolError, match=r"the store's answer: .* is missing"):
            read({})
        for _ in range(50):
            with contextlib.suppress(ProtocolError):
                read(absurd.of(chance, dict))
    assert claim_result({"ended": True}) == {"ended": True}
    assert result(Done)({}) == {}


# --- log records ----------------------------------------------------------------------------------------------------


class Wire:
    """A Dealer that packs what it is given."""

    def __init__(self) -> None:
        self.sent: list[Log] = []

    def send(self, log: Log) -> None:
        found = decode(encode(log), Edge.CHILD_TO_RUNTIME)
        assert isinstance(found, Log)
        self.sent.append(found)


EXTRAS: list[dict[Any, Any]] = [
    {b"k": 1}, {"n": 1 << 70}, {"n": -(1 << 70)}, {"s": "\ud800"}, {"s": "x" * (17 << 20)}, {"u": Unfriendly()},
    {"f": float("nan")}, {f"k{number}": "x" * 1_000_000 for number in range(300)}, {("a", 1): [1]},
]  # fmt: skip


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("of_a_thread", [False, True])
def test_any_log_record_reaches_the_runtime_and_the_log_file(
    extra: dict[Any, Any], of_a_thread: bool, tmp_path: Path
) -> None:
    wire = Wire()
    handler = LogHandler(wire)  # type: ignore[arg-type]
    record = logging.LogRecord("node", 20, "file", 1, "text %s", ("\ud800",), None)
    record.__dict__.update(extra)
    if of_a_thread:
        thread = threading.Thread(target=handler.emit, args=(record,))
        thread.start()
        thread.join()
    else:
        handler.emit(record)
    handler.pass_on()
    (log,) = wire.sent
    assert log.text == "text ?"
    written = RunLogs(tmp_path)
    shown = record_of("a", log)
    written.write("a", "log", shown.text, at_s=shown.time, level=shown.level, fields=shown.fields)
    written.close()
    (line,) = (tmp_path / "a.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=raises)["text"] == "text ?"


@pytest.mark.parametrize(
    ("message", "arguments", "shown", "why"),
    [
        ("%d items", ("x",), "'%d items' with ('x',)", "TypeError"),
        ("%s", (1, 2), "'%s' with (1, 2)", "TypeError"),
        ("%(n)d", ({"m": 1},), "'%(n)d' with {'m': 1}", "KeyError"),
        (Unhelpful(), (), "<Unhelpful that cannot be shown", "RuntimeError"),
        ("%s", (Unhelpful(),), "'%s' with ", "RuntimeError"),
    ],
)
def test_a_log_call_whose_text_cannot_be_made_is_a_line_that_names_it(
    message: object, arguments: tuple[object, ...], shown: str, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    wire = Wire()
    handler = LogHandler(wire)  # type: ignore[arg-type]
    handler.emit(logging.LogRecord("node", 20, "/home/me/count.py", 7, message, arguments, None))
    (log,) = wire.sent
    assert log.text.startswith(f"/home/me/count.py:7: no text can be made of {shown}"), log.text
    assert why in log.text
    assert log.level == 20
    assert capfd.readouterr() == ("", "")


def test_a_record_that_cannot_be_sent_costs_no_more_than_itself() -> None:
    wire = Wire()
    handler = LogHandler(wire)  # type: ignore[arg-type]
    handler._waiting.append(Log(0.0, 20, "bad", {"n": 1 << 70}))
    handler._waiting.append(Log(0.0, 20, "good", {}))
    handler.pass_on()
    assert [log.text for log in wire.sent][1:] == ["good"]
    assert "could not be sent" in wire.sent[0].text


def test_any_frame_of_a_log_can_be_kept(tmp_path: Path) -> None:
    seed = absurd.seed()
    chance = random.Random(seed)
    written = RunLogs(tmp_path)
    for _ in range(300):
        frame = absurd.frame(chance, Log)
        log = decode(frame, Edge.CHILD_TO_RUNTIME)
        assert isinstance(log, Log)
        shown = record_of("a", log)
        written.write("a", "log", shown.text, at_s=shown.time, level=shown.level, fields=shown.fields)
    written.close()
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert len(lines) == 300, f"seed {seed}"
    for line in lines:
        json.loads(line, parse_constant=raises)


# --- logs -----------------------------------------------------------------------------------------------------------


def test_logs_go_on_when_their_folder_is_tidied_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 200)
    folder = tmp_path / "logs"
    folder.mkdir()
    written = RunLogs(folder)
    written.write("a", "stdout", "x" * 150)
    written.flush()
    (folder / "a.jsonl").unlink()
    folder.rmdir()
    written.write("a", "stdout", "y" * 150)
    written.flush()
    assert "y" * 150 in (folder / "a.jsonl").read_text()
    assert written.lost == 0
    written.close()


def test_logs_of_all_nodes_are_there_again_with_the_next_line_after_their_folder_was_removed(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    written = RunLogs(folder)
    written.expect(["a", "quiet"])
    for text in ("before", "after", "later"):
        written.write("a", "stdout", text)
        written.write("", "log", text)
        written.flush()
        if text == "before":
            assert (folder / "quiet.jsonl").exists()
            shutil.rmtree(folder)
    written.close()
    for name in ("a.jsonl", "runtime.log"):
        assert [json.loads(line)["text"] for line in (folder / name).read_text().splitlines()] == ["after", "later"]
    assert (folder / "quiet.jsonl").exists()
    assert written.lost == 0


@pytest.mark.parametrize("fails", ["rename", "open"])
def test_a_rotation_that_fails_loses_no_more_than_it_says(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 200)
    monkeypatch.setattr(logs, "RETRY_S", 0.0)
    written = RunLogs(tmp_path)
    written.write("a", "stdout", "x" * 150)
    written.flush()
    with monkeypatch.context() as broken:
        target: Any = Path if fails == "rename" else os
        broken.setattr(target, fails, lambda *given, **more: raises(OSError(24, "Too many open files")))
        for text in ("lost 1", "lost 2"):
            written.write("a", "stdout", text + "y" * 150)
            written.flush()
    written.write("a", "stdout", "after" + "z" * 150)
    written.flush()
    written.close()
    assert "after" in (tmp_path / "a.jsonl").read_text()
    assert written.lost == (0 if fails == "rename" else 2)


class Broken:
    """An Observer that fails."""

    def __getattr__(self, name: str) -> Any:
        return lambda *given: raises(ValueError(name))


def test_an_observer_that_fails_keeps_nothing_out_of_the_logs(tmp_path: Path) -> None:
    notes = RunLog(Broken(), RunLogs(tmp_path))  # type: ignore[arg-type]
    notes.line("a", "stdout", "one")
    notes.record(LogRecord(0.0, "a", 20, "two", {}))
    notes.crash("a", "on_event", "three", "trace")
    notes.tell("four")
    notes.waiting(["a"])
    notes.summary([], [])
    notes.close()
    assert [json.loads(line)["text"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [
        "one", "two", "on_event: three\ntrace"
    ]  # fmt: skip
    assert "four" in (tmp_path / "runtime.log").read_text()


def test_dead_letters_with_any_keys_are_kept(tmp_path: Path) -> None:
    keep_letters(tmp_path, [{"node": "a", "value": {b"k": {2: [{None: 1}]}}}, {"node": "b", "value": "\ud800"}])
    (kept,) = [json.loads(file.read_text()) for file in tmp_path.iterdir()]
    assert kept[0]["value"] == {"b'k'": {"2": [{"None": 1}]}}
    assert kept[1]["node"] == "b"


# --- a State of others' ---------------------------------------------------------------------------------------------


class Kind:
    """A State without marks, written by others. `fails`: what the next calls raise."""

    def __init__(self, *fails: BaseException) -> None:
        self.fails = list(fails)
        self.made: list[tuple[str, Any]] = []
        self.purge_fails: BaseException | None = None

    def set(self, key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        if self.fails:
            raise self.fails.pop(0)
        self.made.append((key, value))
        return len(self.made)

    delete = merge = apply = set_packed = set

    def purge(self, limit: int) -> int:
        if self.purge_fails is not None:
            raise self.purge_fails
        return 0


@contextmanager
def outbox_thread(folder: Path, kind: Kind, *events: list[SharedWrite], purge_s: float = 100.0) -> Iterator[Net]:
    net = Net(folder, CHAIN, 16 * MB)
    with net.space.write() as txn:
        for index, writes in enumerate(events):
            outbox.put(txn, 1, index, 1, writes)
    thread = OutboxThread(net.space, kind, purge_s)  # type: ignore[arg-type]
    thread._closing.wait = lambda timeout=None: False  # type: ignore[method-assign,assignment]
    try:
        yield net
    finally:
        del thread._closing.wait
        thread.close(5.0)
        net.close()


def waiting(net: Net) -> int:
    with net.space.read() as txn:
        return len(outbox.entries(txn, 100))


AWAY = [ConnectionResetError(), OSError(5, "x"), RuntimeError(), StoreUnreachable("x", "y", 1.0), SystemExit()]


@pytest.mark.parametrize("error", AWAY)
def test_a_kind_that_is_away_is_tried_until_it_is_back(error: BaseException, shm: Path) -> None:
    kind = Kind(*[error] * 10)
    with outbox_thread(shm, kind, [SharedWrite(b"a", b"1")], [SharedWrite(b"b", b"2"), SharedWrite(b"c", b"3")]) as net:
        wait_until(lambda: waiting(net) == 0)
    assert kind.made == [("a", b"1"), ("b", b"2"), ("c", b"3")]


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("x"), UnicodeError("y"), OverflowError()])
def test_a_write_that_a_kind_refuses_again_and_again_is_left_out_and_named(
    error: Exception, shm: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kind = Kind(*[error] * 3)
    with outbox_thread(shm, kind, [SharedWrite(b"a", b"1")], [SharedWrite(b"b", b"2")]) as net:
        wait_until(lambda: waiting(net) == 0)
    assert kind.made == [("b", b"2")]
    assert "'a'" in capfd.readouterr().err


def test_what_was_written_before_one_that_is_tried_again_is_not_written_twice(shm: Path) -> None:
    kind = Kind()
    fails = iter([None, ConnectionResetError(), None])
    write = kind.set

    def set(key: str, value: bytes, ttl: float | None = None, expect: int | None = None) -> int:
        error = next(fails)
        if error is not None:
            raise error
        return write(key, value)

    kind.set = set  # type: ignore[method-assign]
    with outbox_thread(shm, kind, [SharedWrite(b"a", b"1"), SharedWrite(b"b", b"2")]) as net:
        wait_until(lambda: waiting(net) == 0)
    assert kind.made == [("a", b"1"), ("b", b"2")]


def test_a_purge_that_fails_keeps_no_write_from_its_place(shm: Path) -> None:
    kind = Kind()
    kind.purge_fails = ValueError("no")
    with outbox_thread(shm, kind, [SharedWrite(b"a", b"1")], purge_s=0.0) as net:
        wait_until(lambda: waiting(net) == 0)
    assert kind.made == [("a", b"1")]


def test_a_lower_number_is_never_carried_out_again_by_a_kind_without_marks() -> None:
    kind = Kind()
    came = threading.Semaphore(0)
    external = ExternalRequests(kind, came.release)  # type: ignore[arg-type]

    def ask(number: int) -> Reply:
        external.take(b"me", Request(VERSION, "c", number, "kvs_set", {"key": "k", "value": b"%d" % number}))
        assert came.acquire(timeout=30)
        return external.replies.popleft()[1]

    assert [ask(number).error for number in (1, 2, 2, 1, 3, 2)] == ["", "", "", "ProtocolError", "", "ProtocolError"]
    assert [value for _, value in kind.made] == [b"1", b"2", b"3"]
    external.close()


@pytest.mark.parametrize("error", [ConnectionResetError(), ValueError(), SystemExit(), MemoryError()])
def test_a_request_to_a_kind_that_raises_anything_is_answered(error: BaseException) -> None:
    came = threading.Semaphore(0)
    external = ExternalRequests(Kind(error), came.release)  # type: ignore[arg-type]
    external.take(b"me", Request(VERSION, "c", 1, "kvs_set", {"key": "k", "value": b"v"}))
    assert came.acquire(timeout=30)
    assert type(error).__name__ in external.replies.popleft()[1].text
    external.close()


class Watched(TableState):
    """A kind that raises when its changes are asked for."""

    def __init__(self, *fails: BaseException) -> None:
        super().__init__()
        self.fails = list(fails)
        self.changes: list[Any] = []

    def _await_change(self, revision: int, timeout_s: float, closed: threading.Event) -> None:
        if self.fails:
            raise self.fails.pop(0)
        closed.wait(0.01)

    def _after(self, revision: int, limit: int) -> Any:
        return [(key, row) for key, row in self.changes if row.revision > revision], 0

    def _wake(self) -> None:
        pass

    open = init = close = _moment = _transact = _now_ns = _name = get = None  # type: ignore[assignment]


@pytest.mark.parametrize("error", [ValueError("x"), ConnectionResetError(), SystemExit(), KeyError("k")])
def test_whatever_a_watched_kind_raises_is_answered_and_its_watches_go_on(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_watches, "PAUSE_S", 0.0)
    answers: queue.Queue[Reply] = queue.Queue()
    kind = Watched(error)
    watches = Watches(kind, lambda identity, reply: answers.put(reply))
    arguments = {"prefixes": ["k"], "cursor": [0, 0], "wait": 30}
    watches.take(b"me", Request(VERSION, "c", 1, "kvs_watch", arguments))
    assert type(error).__name__ in answers.get(timeout=30).text
    watches.take(b"me", Request(VERSION, "c", 2, "kvs_watch", {**arguments, "wait": 0.05}))
    found = answers.get(timeout=30)
    assert (found.number, found.error, found.result) == (2, "", {"updates": [], "packed": [], "cursor": (0, 0)})
    watches.close()


@pytest.mark.parametrize("error", [ValueError("x"), ConnectionResetError(), StoreUnreachable("x", "y", 1.0)])
def test_whatever_a_kind_raises_when_it_is_opened_the_start_says_so(
    error: BaseException, shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Kind] = []

    def open_kind(name: str, config: Any) -> Any:
        if not opened:
            opened.append(Kind())
            raise error
        opened.append(Kind())
        opened[-1].init = opened[-1].close = lambda: None  # type: ignore[attr-defined]
        return opened[-1]

    monkeypatch.setattr(kinds, "open_kind", open_kind)
    monkeypatch.setattr(startup, "AGAIN_S", 0.0)
    net = Net(shm, CHAIN, 16 * MB)
    woken = threading.Semaphore(0)
    start = Start(net.space, {"kind": "theirs", "options": {}}, 100.0, woken.release)
    assert woken.acquire(timeout=30)
    assert start.ready.is_set()
    if isinstance(error, ValueError):
        assert "ValueError: x" in str(start.error)
    else:
        assert woken.acquire(timeout=30)  # it looks as if its server were away
        assert start.error is None and start.state is opened[-1]
    start.close(5.0)
    net.close()


# --- results that are kept ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("short", [False, True])
def test_the_result_of_a_large_request_is_let_go_and_the_request_is_still_known(
    shm: Path, monkeypatch: pytest.MonkeyPatch, short: bool
) -> None:
    net = Net(shm, CHAIN, 16 * MB)
    net.store.changes["large"] = lambda txn, arguments: {"changed": ["k" * 400] * 1000}
    net.store.changes["small"] = lambda txn, arguments: {"n": arguments["n"]}
    large, small = (Request(VERSION, name, 1, name, {"n": 5}) for name in ("large", "small"))
    replies = [net.store.handle(request) for request in (large, small)]
    assert [net.store.handle(request) for request in (large, small)] == replies
    used = net.space.used_bytes()
    now_ns = net.space.now_ns()
    kept_s = 11 if short else 61
    monkeypatch.setattr(net.space, "now_ns", lambda: now_ns + (kept_s - 2) * 1_000_000_000)
    net.store._forget_clients(short)
    assert [net.store.handle(request) for request in (large, small)] == replies
    monkeypatch.setattr(net.space, "now_ns", lambda: now_ns + kept_s * 1_000_000_000)
    net.store._forget_clients(short)
    assert net.space.used_bytes() < used - 300_000
    assert net.store.handle(small) == replies[1]
    assert "carried out" in net.store.handle(large).text
    net.close()


def test_a_name_that_the_space_cannot_hold_is_refused(shm: Path) -> None:
    net = Net(shm, CHAIN, 16 * MB)
    for client in ("x" * 600, "x" * 100_000, ""):
        reply = net.store.handle(Request(VERSION, client, 1, "kvs_set", {"key": "k", "value": b""}))
        assert reply.error in ("KeyTooLong", "") and len(encode(reply)) < 1000
    assert net.ask("kvs_set", key="k", value=b"fine")
    net.close()
