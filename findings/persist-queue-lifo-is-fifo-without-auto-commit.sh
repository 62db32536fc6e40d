#!/usr/bin/env bash
# persist-queue 1.1.0: FILOSQLiteQueue, the last-in first-out queue, gives the first in first when it was made with
# auto_commit=False. With auto_commit=True (the default) it keeps its order.
#
# Seen (Linux x86-64, Python 3.11), of 0, 1, 2, 3:
#   auto_commit=True     3, 2, 1, 0; with a put of 9 after the first get: 3, 9, 2, 1, 0
#   auto_commit=False    0, 1, 2, 3; with a put of 9 after the first get: 0, 1, 2, 3, 9
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check persist-queue==1.1.0
cd "$work"
venv/bin/python - <<'PY'
import persistqueue


def order(name: str, auto_commit: bool, late: bool) -> list[int]:
    queue = persistqueue.FILOSQLiteQueue(name, auto_commit=auto_commit)
    for item in range(4):
        queue.put(item)
    if not auto_commit:
        queue.task_done()
    found = [queue.get(block=False)]
    if late:
        queue.put(9)
    found += [queue.get(block=False) for _ in range(4 if late else 3)]
    print(f"auto_commit={auto_commit}: {found}")
    return found


assert order("a", True, False) == [3, 2, 1, 0]
assert order("b", True, True) == [3, 9, 2, 1, 0]
assert order("c", False, False) == [0, 1, 2, 3]
assert order("d", False, True) == [0, 1, 2, 3, 9]
print("as described")
PY
