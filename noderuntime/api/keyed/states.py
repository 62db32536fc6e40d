"""The states of one operator's keys: read one by one, changed, and saved at the end of each event.

A key has one saved value, in its slot (slots.py) and under its tag (codecs.py): [state, time of its latest event,
timer, key], and the time of its entry in an index, if it has one. The index says what is due, and when: the timer of a
key, or the end of its time to live. It is kept with the states (see deadlines.py). Nothing is ever read of keys that no
event concerns, so a new life costs the same with any number of keys. The rules:

1. Within an event, a state is the object that the operator returned last. It is encoded once, at the end of the event.
2. At the next event, the state is decoded again from what was saved, so that an operator sees the same state with and
   without a crash in between. Immutable states that come back from their bytes unchanged are kept in memory instead,
   which gives the same result and costs nothing (SAME).
3. Memory holds a copy of the committed and staged states, and is cleared when it becomes large. After an event that
   failed, the copy may be wrong and is read again; `begin` and `save` enclose each event.
4. The index has at most one entry for a key, in the queue of timers or in that of ends, and not later than what it
   stands for. It is corrected when time reaches it, so an event that postpones a deadline does not write to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from noderuntime.api.keyed.codecs import (
    NOT_PLAIN,
    Codec,
    key_tag,
    old_tag,
    pack,
    pack_plain,
    take_apart,
    unpack_stored,
    with_due,
)
from noderuntime.api.keyed.deadlines import Deadlines
from noderuntime.api.keyed.slots import slot_of
from noderuntime.api.keyed.store import KeyedContext, KeyedStore

TIME_KEY: Final = "keyed.time"  # in the private state, outside the keyed one
CACHE_BYTES_MAX = 16_000_000
SLOT_BYTES: Final = 400  # memory that a key takes besides its state, roughly
PURGED_PER_SAVE_MAX: Final = 100  # plus one per saved state: no single event pays for all expired states
NEVER: Final = float("-inf")
TIMERS, ENDS = range(2)  # the queues of the index

# Types of states that are immutable and the same after a crash.
SAME: Final = frozenset({bool, int, float, str, bytes})
# Types of keys for which equal keys of one type have one tag. (0.0 and -0.0 are equal, and have two.)
PLAIN: Final = frozenset({bool, int, str, bytes, type(None)})

_FOUR: Final = b"\x94"  # MessagePack: four items follow
_UNREAD: Final[Any] = object()  # in place of a state that has not been decoded from `stored`


class Slot:
    """What memory holds of one key, whose slot is `number`. A state of None: the key has no state.

    `last`: the time of the key's latest event; NEVER if it is unknown, because there was no time to live at that time;
    None if the key has no state. `due`, `queue`: its entry in the index; None: it has none.
    """

    __slots__ = (
        "changed", "due", "key", "kind", "last", "number", "place", "queue", "size", "state", "stored", "tag", "tail",
        "timer",
    )  # fmt: skip

    def __init__(self, tag: str, key: Any, number: int, place: Any) -> None:
        self.tag = tag
        self.key = key
        self.kind = type(key)
        self.number = number
        self.place = place
        self.state: Any = None
        self.stored: bytes = b""
        self.last: float | None = None
        self.timer: float | None = None
        self.due: float | None = None
        self.queue = TIMERS
        self.changed = False  # in this event
        self.size = 0  # of the saved value, in bytes
        self.tail = b""  # the saved value behind the state, if there is neither a clock nor a timer

    def make_tail(self) -> bytes:
        self.tail = pack([NEVER, None, self.key])[1:]
        return self.tail


class KeyedStates:
    """See the head of this module. `ttl`: see KeyedOperator. `by_event_time`: see `is_over`. `has_timers`: whether the
    operator handles timers; it is noticed when one sets a timer all the same.
    """

    def __init__(self, codec: Codec | None, ttl: float | None, by_event_time: bool, has_timers: bool) -> None:
        self.time = NEVER  # event time so far
        self.now = NEVER  # of the current event: the wall clock, or event time
        self.has_timers = has_timers
        self._timers = Deadlines(TIMERS)
        self._ends = Deadlines(ENDS)
        self._codec = codec
        self._ttl = ttl
        self._by_event_time = by_event_time
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
        """Start from the saved state, of which this needs the event time only."""
        self._start(state.get(TIME_KEY))

    def doubt(self) -> None:
        """Memory may be wrong: before the next event, it is read again."""
        self._in_doubt = True

    def _start(self, time: bytes | None) -> None:
        self.forget()
        self._timers.forget()
        self._ends.forget()
        self.time = self._time_saved = NEVER if time is None else unpack_stored(time)
        self._in_doubt = False

    def begin(self, ctx: KeyedContext) -> None:
        """Call it before each event. Until `save` has returned, memory may be ahead of what is staged."""
        if self._in_doubt:
            self._start(ctx.load_state(TIME_KEY))
        self._in_doubt = True

    def save(self, ctx: KeyedContext) -> None:
        """Call it after each event: stages the states that it changed, and frees expired ones."""
        saved = self.stage(ctx)
        if self._ttl is not None:
            self._purge(PURGED_PER_SAVE_MAX + saved, ctx.keyed)
        if self._size > CACHE_BYTES_MAX:
            self.forget()
        self._in_doubt = False

    def stage(self, ctx: KeyedContext) -> int:
        """Stage the states changed so far; returns how many."""
        if self.time != self._time_saved:
            ctx.save_state(TIME_KEY, pack(self.time))
            self._time_saved = self.time
        changed, codec, kept, ttl = self._changed, self._codec, self._kept, self._ttl
        keyed = ctx.keyed
        values: dict[Any, bytes] = {}
        is_one = len(changed) == 1
        for slot in changed:
            slot.changed = False
            state = slot.state
            if state is None:
                self._drop(slot, keyed)
                continue
            last = slot.last
            if ttl is not None or slot.timer is not None or slot.due is not None:
                self.schedule(slot, keyed)
            encoded = state if codec is None else codec.encode(state)
            if type(encoded) is tuple:  # it comes back as a list, and a list is packed without a second attempt
                encoded = list(encoded)
            try:
                if last is NEVER and slot.timer is None:  # then everything but the state is always the same
                    packed = _FOUR + pack_plain(encoded) + (slot.tail or slot.make_tail())
                else:
                    packed = pack_plain(_value(encoded, slot))
            except NOT_PLAIN:
                packed = pack(_value(encoded, slot))
            if is_one:  # the usual case, for which a dict costs more than it saves
                keyed.save(slot.place, packed)
            else:
                values[slot.place] = packed
            if type(state) not in kept:
                slot.state = _UNREAD
                slot.stored = packed
            if len(packed) != slot.size:
                self._size += len(packed) - slot.size
                slot.size = len(packed)
        if values:
            keyed.save_all(values)
        saved = len(changed)
        changed.clear()
        return saved

    def forget(self) -> None:
        """Clear the copy of states in memory."""
        self._slots.clear()
        self.near.clear()
        self._changed.clear()
        self._size = 0

    # --- keys -------------------------------------------------------------------------------------------------------

    def find(self, key: Any, ctx: KeyedContext) -> Slot:
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

    def open(self, key: Any, at: float, ctx: KeyedContext) -> Slot:
        """`find` and `note` in one call, for an operator that always changes the state."""
        slot = self.near.get(key) if type(key) in PLAIN else None
        if slot is None or slot.changed or slot.kind is not type(key) or type(slot.state) not in self._quick:
            slot = self.find(key, ctx)
            self.note(slot, at)
        else:
            slot.changed = True
            self._changed.append(slot)
        return slot

    def by_tag(self, tag: str, number: int, keyed: KeyedStore) -> Slot | None:
        """The slot of the key with that tag, its state decoded, expired or not; None if the key has no state."""
        slot = self._slots.get(tag)
        if slot is None:
            place = keyed.place(number, tag)
            stored = keyed.load(place)
            if stored is None:
                return None
            slot = self._add(Slot(tag, None, number, place), stored)
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
        end = last + self._ttl
        if timer is not None and timer > end:
            end = timer
        return self.now > end if self._by_event_time else self.now >= end

    def live(self, ctx: KeyedContext) -> list[Any]:
        """The keys that have a state now, the key with the oldest last event first. Reads all of them."""
        return [key for _, _, key in self.live_tags(ctx)]

    def live_tags(self, ctx: KeyedContext) -> list[tuple[str, int, Any]]:
        """The same, with the tags and the slots of the keys."""
        self.stage(ctx)
        found = []
        for number, tag, stored in ctx.keyed.all():
            last, timer, key = unpack_stored(stored)[1:4]
            if not self.is_over(last, timer):
                found.append((last, tag, number, key))
        return [(tag, number, key) for _, tag, number, key in sorted(found, key=lambda item: item[:2])]

    def _at(self, tag: str, key: Any, ctx: KeyedContext) -> Slot:
        slot = self._slots.get(tag)
        if slot is None:
            keyed, number = ctx.keyed, slot_of(key)
            place = keyed.place(number, tag)
            stored = keyed.load(place)
            if stored is None and type(key) not in PLAIN:
                stored = self._adopted(tag, key, number, ctx)
                key = unpack_stored(pack(key))  # a tuple becomes a list after a crash, so it is one before, too
            slot = self._add(Slot(tag, key, number, place), stored)
        return slot

    def _adopted(self, tag: str, key: Any, number: int, ctx: KeyedContext) -> bytes | None:
        """The value that an earlier version saved under another tag (numpy.int64(7) was not 7 then), moved to `tag`."""
        old, keyed = old_tag(key), ctx.keyed
        if old is None or old == tag or keyed.load(keyed.place(number, old)) is None:
            return None
        self.stage(ctx)  # a timer of the old tag may have changed its state in this event
        place = keyed.place(number, old)
        stored = keyed.load(place)
        if stored is None:
            return None
        self._slots.pop(old, None)
        keyed.save(keyed.place(number, tag), stored)
        keyed.delete(place)
        saved = take_apart(stored)
        if saved.due is not None:
            queue = ENDS if saved.timer is None else TIMERS
            keyed.mark(queue, number, saved.due, old, False)
            keyed.mark(queue, number, saved.due, tag, True)
            queued = self._queue(queue)
            queued.discard(old)
            queued.set(tag, saved.due, number)
        return stored

    def _add(self, slot: Slot, stored: bytes | None) -> Slot:
        if stored is not None:
            self._read(slot, stored)
            slot.size = len(stored)
        self._slots[slot.tag] = slot
        self._size += slot.size + SLOT_BYTES
        return slot

    def _read(self, slot: Slot, stored: bytes) -> None:
        fields = unpack_stored(stored)
        state, last, slot.timer, slot.key = fields[:4]
        slot.last = NEVER if last == NEVER else last
        slot.due = fields[4] if len(fields) > 4 else None
        slot.queue = ENDS if slot.timer is None else TIMERS
        slot.kind = type(slot.key)
        slot.state = state if self._codec is None else self._codec.decode(state)

    def _drop(self, slot: Slot, keyed: KeyedStore) -> None:
        slot.state = slot.timer = slot.last = None
        slot.stored = b""
        self.schedule(slot, keyed)
        keyed.delete(slot.place)

    # --- what is due ------------------------------------------------------------------------------------------------

    def schedule(self, slot: Slot, keyed: KeyedStore) -> None:
        """Give a key the entry in the index that it needs. What changes with it is part of its saved value."""
        queue, wanted = ENDS, slot.timer
        if wanted is not None:
            queue = TIMERS
            self.has_timers = True
        elif self._ttl is not None and slot.last is not None and slot.last != NEVER:
            wanted = slot.last + self._ttl
        if slot.due is not None:
            if wanted is not None and queue == slot.queue and self.now < slot.due <= wanted:
                return  # not too late, and not about to be corrected
            keyed.mark(slot.queue, slot.number, slot.due, slot.tag, False)
            self._queue(slot.queue).discard(slot.tag)
        slot.due, slot.queue = wanted, queue
        if wanted is not None:
            keyed.mark(queue, slot.number, wanted, slot.tag, True)
            self._queue(queue).set(slot.tag, wanted, slot.number)

    def take_timer(self, keyed: KeyedStore) -> tuple[float, Slot] | None:
        """The key whose timer is due first, and when. Its entry is removed: `schedule` makes the next one."""
        while self.has_timers and (first := self._timers.first(self.now, keyed)) is not None:
            due, tag, number = first
            slot = self.by_tag(tag, number, keyed)
            self._take(self._timers, first, slot, keyed)
            if slot is None or slot.timer is None:
                continue
            if slot.timer <= due:
                return due, slot
            self._correct(slot, keyed)
        return None

    def _purge(self, most: int, keyed: KeyedStore) -> None:
        """Free up to `most` expired states. The others wait: an expired key counts as new in any case."""
        for _ in range(most):
            first = self._ends.first(self.now, keyed)
            if first is None or (self._by_event_time and first[0] >= self.now):
                return
            slot = self._slots.get(first[1])
            if slot is None:
                slot = self._outside(first[1], first[2], keyed)
            self._take(self._ends, first, slot, keyed)
            if slot is None:
                continue
            if self.is_over(slot.last, slot.timer):
                self._drop(slot, keyed)
            else:
                self._correct(slot, keyed)

    def _outside(self, tag: str, number: int, keyed: KeyedStore) -> Slot | None:
        """A key that memory does not hold, without its state, which may be about to be dropped."""
        place = keyed.place(number, tag)
        stored = keyed.load(place)
        if stored is None:
            return None
        slot = Slot(tag, None, number, place)
        saved = take_apart(stored)
        slot.last, slot.timer, slot.due = saved.last, saved.timer, saved.due
        slot.queue = ENDS if saved.timer is None else TIMERS
        return slot

    def _take(
        self, queued: Deadlines, first: tuple[float, str, int], slot: Slot | None, keyed: KeyedStore
    ) -> None:
        """Remove the first entry of a queue."""
        due, tag, number = first
        queue = TIMERS if queued is self._timers else ENDS
        queued.discard(tag)
        keyed.mark(queue, number, due, tag, False)
        if slot is None or slot.due is None:
            return
        if slot.queue == queue and slot.due == due:
            slot.due = None
        else:  # the key has another one, too: one that should not be there, after a change from outside
            self._queue(slot.queue).set(tag, slot.due, number)

    def _correct(self, slot: Slot, keyed: KeyedStore) -> None:
        """The entry of a key came too early: make the right one."""
        self.schedule(slot, keyed)
        if slot.changed:  # then it is saved in any case
            return
        stored = keyed.load(slot.place)
        if stored is None:
            return
        packed = with_due(take_apart(stored), slot.due)
        keyed.save(slot.place, packed)
        if slot.state is _UNREAD:
            slot.stored = packed
        if slot.tag in self._slots:
            self._size += len(packed) - slot.size
        slot.size = len(packed)

    def _queue(self, number: int) -> Deadlines:
        return self._timers if number == TIMERS else self._ends


def _value(encoded: Any, slot: Slot) -> list[Any]:
    """What is saved of a key."""
    if slot.due is None:
        return [encoded, slot.last, slot.timer, slot.key]
    return [encoded, slot.last, slot.timer, slot.key, slot.due]
