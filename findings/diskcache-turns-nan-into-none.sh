#!/usr/bin/env bash
# diskcache 5.6.3: the float NaN is stored as None. A NaN that is put into a Cache, a Deque or a queue (push and pull)
# comes back as None; as a key it becomes None, and nobody finds the value again: neither by NaN nor by iterating.
#
# Seen (Linux x86-64, Python 3.11):
#   cache["k"] = nan; cache["k"]                 None; infinity and -0.0 come back as they were
#   list(Deque([1.0, nan, 2.0]))                 [1.0, None, 2.0]
#   push(nan); pull()                            (a key, None): a pull of the empty queue gives (None, None)
#   {"v": nan} (pickled as a whole)              keeps the NaN
#   cache[nan] = "a"; list(cache); cache.get(nan)   [None], None: "a" is held, but by no key that can be asked for
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check diskcache==5.6.3
cd "$work"
venv/bin/python - <<'PY'
import math

from diskcache import Cache, Deque

nan = math.nan
with Cache("values") as cache:
    for value in (nan, math.inf, -0.0):
        cache["k"] = value
        print(value, "->", cache["k"])
        assert (cache["k"] is None) if math.isnan(value) else (repr(cache["k"]) == repr(value))
    cache["k"] = {"v": nan}
    assert math.isnan(cache["k"]["v"])

found = list(Deque([1.0, nan, 2.0], "deque"))
print("Deque", found)
assert found == [1.0, None, 2.0]

with Cache("queue") as queue:
    queue.push(nan)
    first, second = queue.pull(), queue.pull()
    print("pulled", first, second)
    assert first[0] is not None and first[1] is None
    assert second == (None, None)

with Cache("keys") as cache:
    cache[nan] = "a"
    print("keys", list(cache), "by NaN", cache.get(nan), "by None", cache.get(None), "length", len(cache))
    assert list(cache) == [None] and len(cache) == 1
    assert cache.get(nan) is None and cache.get(None) is None
print("as described")
PY
