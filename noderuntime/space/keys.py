"""Every key of the space is built and parsed here. Pure.

    M name                             facts about the space: format, sequence base, numbers of nodes, clock
    n node                             node record
    i node                             the inputs and outputs of a node whose wiring was changed while it ran
    v node                             which outputs of a node are tapped, see taps.py
    q node input                       queue record
    m node input sequence index        a message in a mailbox
    m node input sequence index PACK   several messages: the key of the first of them, marked (see packs.py)
    a node input sequence index        attempts: how many lives ended with that message in hand
    d node sequence index input        a dead letter; without the input if an older version buried it
    p node key                         private state
    k node slot tag                    the state of a key of a keyed operator, by slot (see api/keyed/slots.py)
    t node slot queue due tag          what is due for such a key, and when: a timer, the end of its time to live
    s key                              shared KVS: the cell under a key, also of deletions in force
    c sequence index                   change log: which shared key changed, and the digest of all of them after it
    e expiry sequence index            shared keys that expire, by time; sequence and index of the change that made them
    h                                  head of the shared KVS: digest, clock, length of the log, limits
    w node                             how far a watching node has read the change log
    x node prefix                      what it watches
    o sequence index                   outbox: shared writes on their way to an external State
    g node number                      a payload segment of that node: generation, size, references
    r client                           last request of a client, and its result

Numbers are big-endian, so that keys sort as numbers do: node and input 16 bits, sequence 64, index 32, slot and queue
8. `due` is a float of 64 bits, encoded so that it sorts as its value does. User keys and tags are UTF-8. LMDB's keys
hold 511 bytes.
"""

from __future__ import annotations

import struct

from noderuntime.errors import KeyTooLong

LMDB_KEY_BYTES_MAX = 511
USER_KEY_BYTES_MAX = 508  # one limit for private and shared keys
VALUE_BYTES_MAX = 1_000_000  # of one private or shared value
NODES_MAX = 65535
_GONE = 65533  # no input has this number
TAPS = 65534  # the number under which tapped messages have their mailboxes; no node has it
NO_INPUT = 65535  # in the attempts of an event that is no message and belongs to no input

_NODE = struct.Struct(">cH")
_INPUT = struct.Struct(">cHH")
_MESSAGE = struct.Struct(">cHHQI")
_PLACE = struct.Struct(">QI")
_DEAD = struct.Struct(">cHQIH")

MAILBOX_PREFIX_BYTES = _INPUT.size
MESSAGE_KEY_BYTES = _MESSAGE.size
SEQUENCE_PREFIX_BYTES = MESSAGE_KEY_BYTES - 4  # of a message's key, up to its index
PACK_MARK = b"\1"
PACK_KEY_BYTES = MESSAGE_KEY_BYTES + len(PACK_MARK)
PRIVATE_PREFIX_BYTES = _NODE.size

place = _PLACE.pack
"""place(sequence, index): what follows a mailbox prefix."""

PLACE_ENDS_MAX = 1024
PLACE_ENDS = tuple(index.to_bytes(4, "big") for index in range(PLACE_ENDS_MAX))
"""place_end of the first indexes, which is what most commits need."""


def place_start(sequence: int) -> bytes:
    """place(sequence, index) is place_start(sequence) + place_end(index)."""
    return sequence.to_bytes(8, "big")


def place_end(index: int) -> bytes:
    return index.to_bytes(4, "big")


def parse_place(place: bytes) -> tuple[int, int]:
    sequence, index = _PLACE.unpack(place)
    return sequence, index


def fact(name: str) -> bytes:
    return b"M" + name.encode()


IN_FORCE = fact("dataflow")  # the dataflow that the run has now, see store/changes.py
TAP_CHANGES = fact("tap_changes")  # how often taps have come and gone, see taps.py
TAPPED_PREFIX = b"v"
STOP_ALL = fact("stop_all")  # written by the commit of an event whose operator asked for the end of the run
EXTERNAL = fact("outside")  # the external State, if shared state is in one; kept spaces have it under this name


def owners(node: int) -> bytes:
    """Which replica owns each slot: a byte for each. `node`: the number of the first replica."""
    return fact(f"owners {node}")


def node(number: int) -> bytes:
    return _NODE.pack(b"n", number)


def wiring(node: int) -> bytes:
    return _NODE.pack(b"i", node)


def tapped(node: int) -> bytes:
    return _NODE.pack(TAPPED_PREFIX, node)


def parse_tapped(key: bytes) -> int:
    """The node of a tapped key."""
    number: int = _NODE.unpack(key)[1]
    return number


def queue(node: int, input: int) -> bytes:
    return _INPUT.pack(b"q", node, input)


def gone_inputs(node: int) -> bytes:
    """A queue record without a queue: what the inputs have counted that this node no longer has."""
    return queue(node, _GONE)


def queues_prefix(node: int) -> bytes:
    """The prefix of all queue records of a node."""
    return _NODE.pack(b"q", node)


def mailbox(node: int, input: int) -> bytes:
    """The prefix of all messages of one input."""
    return _INPUT.pack(b"m", node, input)


def queue_of(mailbox: bytes) -> bytes:
    """The key of the queue record of a mailbox (its prefix)."""
    return b"q" + mailbox[1:]


def message(node: int, input: int, sequence: int, index: int) -> bytes:
    return _MESSAGE.pack(b"m", node, input, sequence, index)


def is_pack(key: bytes) -> bool:
    """Whether a key of a mailbox is that of a pack."""
    return len(key) == PACK_KEY_BYTES


def index_of(key: bytes) -> int:
    """The index in a message's key; of a pack, that of its first message."""
    return int.from_bytes(key[SEQUENCE_PREFIX_BYTES:MESSAGE_KEY_BYTES], "big")


def sequence_of(key: bytes) -> int:
    """The sequence in the key of a message or a pack."""
    return int.from_bytes(key[MAILBOX_PREFIX_BYTES:SEQUENCE_PREFIX_BYTES], "big")


def parse_message(key: bytes) -> tuple[int, int, int, int]:
    """(node, input, sequence, index) of a message's or an attempts key."""
    _, number, input, sequence, index = _MESSAGE.unpack(key)
    return number, input, sequence, index


def attempts(message_key: bytes) -> bytes:
    return b"a" + message_key[1:]


def attempts_prefix(node: int) -> bytes:
    return _NODE.pack(b"a", node)


def dead(node: int, sequence: int, index: int, input: int) -> bytes:
    return _DEAD.pack(b"d", node, sequence, index, input)


def dead_prefix(node: int) -> bytes:
    return _NODE.pack(b"d", node)


def private_prefix(node: int) -> bytes:
    return _NODE.pack(b"p", node)


KEYED_PREFIX = b"k"
DUE_PREFIX = b"t"
_SLOT = struct.Struct(">cHB")
_DUE = struct.Struct(">cHBB")
_TIME = struct.Struct(">d")
_BITS = struct.Struct(">Q")
_SIGN = 1 << 63
KEYED_PREFIX_BYTES = _SLOT.size  # of one slot
DUE_PREFIX_BYTES = _DUE.size  # of one queue of one slot


def keyed_prefix(node: int) -> bytes:
    """The prefix of all keyed states of a node."""
    return _NODE.pack(KEYED_PREFIX, node)


def keyed(node: int, slot: int, tag: bytes) -> bytes:
    return _SLOT.pack(KEYED_PREFIX, node, slot) + tag


def due_prefix(node: int) -> bytes:
    """The prefix of all that is due for keys of a node."""
    return _NODE.pack(DUE_PREFIX, node)


def due_queue(node: int, slot: int, queue: int) -> bytes:
    """The prefix of one queue of a slot."""
    return _DUE.pack(DUE_PREFIX, node, slot, queue)


def due_entry(due: float, tag: bytes) -> bytes:
    """What follows the prefix of a queue. 0.0 and -0.0 are one time."""
    (bits,) = _BITS.unpack(_TIME.pack(due + 0.0))
    return _BITS.pack(bits ^ (2 * _SIGN - 1 if bits & _SIGN else _SIGN)) + tag


def parse_due(entry: bytes) -> tuple[float, bytes]:
    """(due, tag) of what follows the prefix of a queue."""
    (bits,) = _BITS.unpack_from(entry)
    (due,) = _TIME.unpack(_BITS.pack(bits ^ (_SIGN if bits & _SIGN else 2 * _SIGN - 1)))
    return due, entry[_BITS.size :]


def user_key(key: object) -> bytes:
    """A user's key as UTF-8. Raises TypeError, or KeyTooLong above USER_KEY_BYTES_MAX."""
    if type(key) is not str:
        raise TypeError(f"a key is a str, not {type(key).__name__}")
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        raise TypeError(f"a key is text that UTF-8 can hold, not {key[:40]!r}") from None
    if len(encoded) > USER_KEY_BYTES_MAX:
        raise KeyTooLong(key, len(encoded), USER_KEY_BYTES_MAX)
    return encoded


SEGMENT_PREFIX = b"g"
_SEGMENT = struct.Struct(">cHI")


def segment(owner: int, number: int) -> bytes:
    return _SEGMENT.pack(SEGMENT_PREFIX, owner, number)


def parse_segment(key: bytes) -> tuple[int, int]:
    """(owner, number) of a segment's key."""
    _, owner, number = _SEGMENT.unpack(key)
    return owner, number


SHARED_PREFIX = b"s"
HEAD = b"h"
CHANGE_PREFIX = b"c"
EXPIRY_PREFIX = b"e"
WATCHED_PREFIX = b"x"
OUTBOX_PREFIX = b"o"

_CHANGE = struct.Struct(">cQI")
_EXPIRY = struct.Struct(">cQQI")


def change(sequence: int, index: int) -> bytes:
    return _CHANGE.pack(CHANGE_PREFIX, sequence, index)


def parse_change(key: bytes) -> tuple[int, int]:
    """(sequence, index) of a change's or an outbox key."""
    _, sequence, index = _CHANGE.unpack(key)
    return sequence, index


def outbox(sequence: int, index: int) -> bytes:
    return _CHANGE.pack(OUTBOX_PREFIX, sequence, index)


def expiry(at_ns: int, sequence: int, index: int) -> bytes:
    return _EXPIRY.pack(EXPIRY_PREFIX, at_ns, sequence, index)


def watch_cursor(node: int) -> bytes:
    return _NODE.pack(b"w", node)


def watched_prefix(node: int) -> bytes:
    return _NODE.pack(WATCHED_PREFIX, node)


def parse_watched(key: bytes) -> tuple[int, bytes]:
    """(node, prefix) of a watched key."""
    return _NODE.unpack_from(key)[1], key[_NODE.size :]


def shared(user: bytes) -> bytes:
    return b"s" + user


REQUEST_PREFIX = b"r"


def request(client: str) -> bytes:
    """Raises KeyTooLong."""
    return b"r" + user_key(client)
