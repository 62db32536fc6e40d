"""Object stores on loopback, speaking the real protocols: moto for s3://, Azurite for az://."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import hmac
import logging
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENVIRONMENT = Path(sys.prefix)
AZURITE = ENVIRONMENT / "azurite" / "node_modules" / ".bin" / "azurite-blob"
AZURE_ACCOUNT = "devstoreaccount1"
# the well-known key of this emulator's one account; it opens nothing else
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
BUCKET = "snapshots"

Options = dict[str, Any]


@contextlib.contextmanager
def s3_server() -> Iterator[Options]:
    """moto's server with one bucket; the options that a dataflow would give."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        endpoint = f"http://127.0.0.1:{port}"
        request = urllib.request.Request(f"{endpoint}/{BUCKET}", data=b"", method="PUT")
        with urllib.request.urlopen(request):
            pass
        yield {
            "endpoint": endpoint,
            "region": "us-east-1",
            "access_key_id": "test",
            "secret_access_key": "test",
        }
    finally:
        server.stop()


@contextlib.contextmanager
def azure_server() -> Iterator[Options]:
    """Azurite with one container; the options that a dataflow would give."""
    if not AZURITE.exists():
        raise RuntimeError(f"there is no {AZURITE}: `make test-long` installs it")
    command = [str(AZURITE), "--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence",
               "--disableTelemetry", "--skipApiVersionCheck"]  # fmt: skip
    env = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{ENVIRONMENT / 'bin'}"}  # where node may be
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            line = next((line for line in process.stdout if "listens on" in line), "")
            if not line:
                raise RuntimeError("azurite ended before it listened")
            endpoint = f"{line.split('listens on')[1].strip()}/{AZURE_ACCOUNT}"
            _make_container(endpoint)
            yield {"endpoint": endpoint, "account_name": AZURE_ACCOUNT, "account_key": AZURE_KEY}
        finally:
            process.kill()  # it would wait for connections that our client keeps alive
            process.wait()


def _make_container(endpoint: str) -> None:
    date = email.utils.formatdate(usegmt=True)
    resource = f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{BUCKET}\nrestype:container"
    signed = f"PUT\n\n\n\n\ntext/plain\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:2021-08-06\n{resource}"
    digest = hmac.new(base64.b64decode(AZURE_KEY), signed.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": "2021-08-06",
        "Content-Type": "text/plain",
        "Authorization": f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}",
    }
    url = f"{endpoint}/{BUCKET}?restype=container"
    with urllib.request.urlopen(urllib.request.Request(url, data=b"", method="PUT", headers=headers)):
        pass
