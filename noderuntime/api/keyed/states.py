"""The states of one operator's keys: read, changed, and saved at the end of each event.

In the private state each key has one value, under its tag (see codecs.py): [state, time of its latest event, timer,
key]. The rules:

1. Within an event, a state is the object that the operator returned last. It is encoded once, at the end of the event.
2. At the next event, the state is decoded again from what was saved, so that an operator sees the same state with and
   without a crash in between. Immutable states that come back from their bytes unchanged are kept in memory instead,
   which gives the same result and costs nothing (SAME).
3. Memory holds a copy of the committed and staged states, and is cleared when it becomes large. After an event that
   failed, the copy may be wrong and is read again; `begin` and `save` enclose each event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from noderuntime.api.keyed.codecs import NOT_PLAIN, Codec, key_tag, old_tag, pack, pack_plain, unpack_stored
from noderuntime.api.keyed.deadlines import Deadlines

TIME_KEY: Final = "keyed.time"  # cannot be a tag: every tag contains a colon
TAG_KINDS: Final = frozenset({"str", "int", "bool", "float", "msgpack", "sha256"})
CACHE_BYTES_MAX = 16_000_000
SLOT_BYTES: Final = 400  # memory that a key takes besides its state, roughly
PURGED_PER_SAVE_MAX: Final = 100  # plus one per saved state: no single event pays for all expired states
NEVER: Final = float("-inf")

# Types of states that are immutable and the same after a crash.
SAME: Final = frozenset({bool, int, float, str, bytes})
# Types of keys for which equal keys of one type have one tag. (0.0 and -0.0 are equal, and have two.)
PLAIN: Final = frozenset({bool, int, str, bytes, type(None)})

_FOUR: Final = b"\x94"  # MessagePack: four items follow
_UNREAD: Final[Any] = object()  # in place of a state that has not been decoded from `stored`


class PrivateState(Protocol):
    """The part of `ctx` that this module needs."""

    def save_state(self, key: str, value: bytes) -> None: ...

    def delete_state(self, key: str) -> None: ...

    def load_state(self, key: str, default: None = None) -> bytes | None: ...

    def state(self) -> dict[str, bytes]: ...


class Slot:
    """What memory holds of one key. A state of None: the key has no state.

    `last`: the time of the key's latest event; NEVER if it is unknown, because there was no time to live at that time;
    None if the key has no state.
    """

    __slots__ = ("changed", "key", "kind", "last", "size", "state", "stored", "tag", "tail", "timer")

    def __init__(self, tag: str, key: Any) -> None:
        self.tag = tag
        self.key = key
        self.kind = type(key)
        self.state: Any = None
        self.stored: bytes = b""
        self.last: float | None = None
        self.timer: float | None = None
        self.changed = False  # in this event
        self.size = 0  # of the saved value, in bytes
        self.tail = b""  # the saved value behind the state, if there is neither a clock nor a timer

    def make_tail(self) -> bytes:
        self.tail = pack([NEVER, None, self.key])[1:]
        return self.tail


class KeyedStates:
    """See the head of this module. `ttl`: see KeyedOperator. `by_event_time`: see `is_over`."""

    def __init__(self, codec: Codec | None, ttl: float | None, by_event_time: bool, has_timers: bool) -> None:
        self.time = NEVER  # event time so far
        self.now = NEVER  # of the current event: the wall clock, or event time
        self.timers = Deadlines()
        self._ends = Deadlines()
        self._codec = codec
        self._ttl = ttl
        self._by_event_time = by_event_time
        self._has_timers = has_timers
        self._kept = SAME if codec is None else frozenset()
        # types of states for which nothing has to be decoded and no time compared
        self._quick = self._kept if ttl is None and not by_event_time else frozenset()
        self._slots: dict[str, Slot] = {}
        # slots of plain keys, by key. Of equal keys of different types (True is 1 to a dict), only the first is here
        self.near: dict[Any, Slot] = {}
        self._changed: list[Slot] = []
        self._size = 0
        self._time_saved = NEVER
        self._in_doubt = False

    # --- events -----------------------------------------------------------------------------------------------------

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Start from the saved state."""
        self.forget()
        self.time = self._time_saved = unpack_stored(state[TIME_KEY]) if TIME_KEY in state else NEVER
        ends: list[tuple[str, float]] = []
        timers: list[tuple[str, float]] = []
        if self._ttl is not None or self._has_timers:  # otherwise nothing is ever due
            for tag, stored in state.items():
                if tag.partition(":")[0] in TAG_KINDS:
                    _, last, timer, _ = unpack_stored(stored)
                    if self._ttl is not None and last != NEVER:
                        ends.append((tag, self._end(last, timer)))
                    if timer is not None:
                        timers.append((tag, timer))
        self._ends.load(ends)
        self.timers.load(timers)
        self._in_doubt = False

    def begin(self, ctx: PrivateState) -> None:
        """Call it before each event. Until `save` has returned, memory may be ahead of what is staged."""
        if self._in_doubt:
            self.restore(ctx.state())
        self._in_doubt = True

    def save(self, ctx: PrivateState) -> None:
        """Call it after each event: stages the states that it changed, and frees expired ones."""
        saved = self.stage(ctx)
        if self._ttl is not None:
            self._purge(PURGED_PER_SAVE_MAX + saved, ctx)
        if self._size > CACHE_BYTES_MAX:
            self.forget()
        self._in_doubt = False

    def stage(self, ctx: PrivateState) -> int:
        """Stage the states changed so far; returns how many."""
        if self.time != self._time_saved:
            ctx.save_state(TIME_KEY, pack(self.time))
            self._time_saved = self.time
        changed, codec, kept, ttl, save_state = self._changed, self._codec, self._kept, self._ttl, ctx.save_state
        for slot in changed:
            slot.changed = False
            state = slot.state
            if state is None:
                self._drop(slot, ctx)
                continue
            last = slot.last
            encoded = state if codec is None else codec.encode(state)
            if type(encoded) is tuple:  # it comes back as a list, and a list is packed without a second attempt
                encoded = list(encoded)
            try:
                if last is NEVER and slot.timer is None:  # then everything but the state is always the same
                    packed = _FOUR + pack_plain(encoded) + (slot.tail or slot.make_tail())
                else:
                    packed = pack_plain([encoded, last, slot.timer, slot.key])
            except NOT_PLAIN:
                packed = pack([encoded, last, slot.timer, slot.key])
            save_state(slot.tag, packed)
            if type(state) not in kept:
                slot.state = _UNREAD
                slot.stored = packed
            if len(packed) != slot.size:
                self._size += len(packed) - slot.size
                slot.size = len(packed)
            if ttl is not None and last is not None and last != NEVER:
                self._ends.set(slot.tag, self._end(last, slot.timer))
        saved = len(changed)
        changed.clear()
        return saved

    def forget(self) -> None:
        """Clear the copy in memory."""
        self._slots.clear()
        self.near.clear()
        self._changed.clear()
        self._size = 0

    # --- keys -------------------------------------------------------------------------------------------------------

    def find(self, key: Any, ctx: PrivateState) -> Slot:
        """The slot of `key`, its state decoded. An expired state is None."""
        kind = type(key)
        if kind in PLAIN:
            slot = self.near.get(key)
            if slot is None or slot.kind is not kind:
                slot = self._at(key_tag(key), key, ctx)
                self.near.setdefault(key, slot)
        else:
            slot = self._at(key_tag(key), key, ctx)
        if slot.state is _UNREAD:
            self._read(slot, slot.stored)
        if slot.state is None or (self._ttl is not None and self.is_over(slot.last, slot.timer)):
            slot.state = slot.timer = slot.last = None
        return slot

    def open(self, key: Any, at: float, ctx: PrivateState) -> Slot:
        """`find` and `note` in one call, for an operator that always changes the state."""
        slot = self.near.get(key) if type(key) in PLAIN else None
        if slot is None or slot.changed or slot.kind is not type(key) or type(slot.state) not in self._quick:
            slot = self.find(key, ctx)
            self.note(slot, at)
        else:
            slot.changed = True
            self._changed.append(slot)
        return slot

    def by_tag(self, tag: str, ctx: PrivateState) -> Slot | None:
        """The slot of the key with that tag, its state decoded, expired or not; None if the key has no state."""
        slot = self._slots.get(tag)
        if slot is None:
            stored = ctx.load_state(tag)
            if stored is None:
                return None
            slot = self._add(Slot(tag, None), stored)
        elif slot.state is _UNREAD:
            self._read(slot, slot.stored)
        return None if slot.state is None else slot

    def note(self, slot: Slot, at: float) -> None:
        """Record that an event at time `at` changed this state: `save` will stage it."""
        if slot.last is None or at > slot.last:
            slot.last = at
        if not slot.changed:
            slot.changed = True
            self._changed.append(slot)

    def is_over(self, last: float | None, timer: float | None) -> bool:
        """Whether a key whose last event was at `last` is forgotten now. A timer keeps a key until it is due."""
        if self._ttl is None or last is None or last == NEVER:
            return False
        return self.now > self._end(last, timer) if self._by_event_time else self.now >= self._end(last, timer)

    def _end(self, last: float, timer: float | None) -> float:
        assert self._ttl is not None
        return last + self._ttl if timer is None else max(last + self._ttl, timer)

    def live(self, ctx: PrivateState) -> list[Any]:
        """The keys that have a state now, the key with the oldest last event first. Reads all of them."""
        return [key for _, key in self.live_tags(ctx)]

    def live_tags(self, ctx: PrivateState) -> list[tuple[str, Any]]:
        """The same, with the tags of the keys."""
        self.stage(ctx)
        found = []
        for tag, stored in ctx.state().items():
            if tag.partition(":")[0] in TAG_KINDS:
                _, last, timer, key = unpack_stored(stored)
                if not self.is_over(last, timer):
                    found.append((last, tag, key))
        return [(tag, key) for _, tag, key in sorted(found, key=lambda item: item[:2])]

    def _at(self, tag: str, key: Any, ctx: PrivateState) -> Slot:
        slot = self._slots.get(tag)
        if slot is None:
            stored = ctx.load_state(tag)
            if stored is None and type(key) not in PLAIN:
                stored = self._adopted(tag, key, ctx)
                key = unpack_stored(pack(key))  # a tuple becomes a list after a crash, so it is one before, too
            slot = self._add(Slot(tag, key), stored)
        return slot

    def _adopted(self, tag: str, key: Any, ctx: PrivateState) -> bytes | None:
        """The value that an earlier version saved under another tag (numpy.int64(7) was not 7 then), moved to `tag`."""
        old = old_tag(key)
        if old is None or old == tag or ctx.load_state(old) is None:
            return None
        self.stage(ctx)  # a timer of the old tag may have changed its state in this event
        stored = ctx.load_state(old)
        if stored is None:
            return None
        self._slots.pop(old, None)
        self._ends.discard(old)
        self.timers.discard(old)
        ctx.save_state(tag, stored)
        ctx.delete_state(old)
        _, last, timer, _ = unpack_stored(stored)
        if self._ttl is not None and last != NEVER:
            self._ends.set(tag, self._end(last, timer))
        if timer is not None:
            self.timers.set(tag, timer)
        return stored

    def _add(self, slot: Slot, stored: bytes | None) -> Slot:
        if stored is not None:
            self._read(slot, stored)
            slot.size = len(stored)
        self._slots[slot.tag] = slot
        self._size += slot.size + SLOT_BYTES
        return slot

    def _read(self, slot: Slot, stored: bytes) -> None:
        state, last, slot.timer, slot.key = unpack_stored(stored)
        slot.last = NEVER if last == NEVER else last
        slot.kind = type(slot.key)
        slot.state = state if self._codec is None else self._codec.decode(state)

    def _drop(self, slot: Slot, ctx: PrivateState) -> None:
        slot.state = slot.timer = slot.last = None
        slot.stored = b""
        ctx.delete_state(slot.tag)
        self._ends.discard(slot.tag)
        self.timers.discard(slot.tag)

    def _purge(self, most: int, ctx: PrivateState) -> None:
        """Free up to `most` expired states. The others wait: an expired key counts as new in any case."""
        for _ in range(most):
            first = self._ends.first()
            if first is None or (first[0] >= self.now if self._by_event_time else first[0] > self.now):
                return
            slot = self._slots.get(first[1])
            self._drop(Slot(first[1], None) if slot is None else slot, ctx)
