#!/usr/bin/env bash
# diskcache 5.6.3: the queues that push(prefix=...) and pull(prefix=...) make in one Cache are not apart when one prefix
# begins with another and "-": pull(prefix="a") takes the items of the queue "a-5" away, before its own.
#
# Seen (Linux x86-64, Python 3.11): push 0, 1 with prefix "a" and "x", "y" with prefix "a-5"; then
#   three pulls of "a"       "x", "y", 0
#   a pull of "a-5"          nothing: (None, None)
# With the prefixes "a" and "b" each queue gives what was put into it. robot-1 and robot-1-2 are not apart.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check diskcache==5.6.3
cd "$work"
venv/bin/python - <<'PY'
from diskcache import Cache


def pulled(one: str, other: str) -> tuple[list, tuple]:
    """What three pulls of the first queue and one of the second give."""
    with Cache(f"cache-{one}-{other}") as cache:
        for item in (0, 1):
            cache.push(item, prefix=one)
        for item in ("x", "y"):
            cache.push(item, prefix=other)
        found = [cache.pull(prefix=one)[1] for _ in range(3)], cache.pull(prefix=other)
    print(f"{one}: {found[0]}; {other}: {found[1]}")
    return found


assert pulled("a", "a-5") == (["x", "y", 0], (None, None))
assert pulled("robot-1", "robot-1-2") == (["x", "y", 0], (None, None))
own, other = pulled("a", "b")
assert own == [0, 1, None] and other[1] == "x"
print("as described")
PY
