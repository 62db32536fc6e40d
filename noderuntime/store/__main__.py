"""The start of the store process: `python -m noderuntime.store RUN_DIR`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from noderuntime.errors import NodeRuntimeError, StoreError
from noderuntime.ipc.boundary import Boundary, describe
from noderuntime.ipc.channel import Router
from noderuntime.ipc.process import die_with_parent
from noderuntime.ipc.protocol import Edge
from noderuntime.ipc.rundir import RunDir
from noderuntime.snapshot.restore import restore_newest
from noderuntime.snapshot.settings import Settings
from noderuntime.space.environment import create, open_space
from noderuntime.space.kvs import ttl_to_ns
from noderuntime.store.kvs import set_limits
from noderuntime.store.operations import Store
from noderuntime.store.service import Service, refuse
from noderuntime.store.snapshots import Snapshots, say


def main(argv: list[str] | None = None) -> int:
    """`python -m noderuntime.store RUN_DIR --size BYTES`: create or open the space, and serve it."""
    parser = argparse.ArgumentParser(prog="noderuntime.store")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--size", type=int, default=1_000_000_000)
    parser.add_argument("--purge-interval", type=float, default=60.0)
    parser.add_argument("--history", type=int, help="changes kept; default: as before")
    parser.add_argument("--state", help="the `state:` section as JSON, see store/startup.py; default: as before")
    parser.add_argument("--snapshots", type=Path, help="settings of the snapshots, see snapshot/settings.py")
    parser.add_argument("--resume", action="store_true", help="when there is no space, make it from a snapshot")
    parser.add_argument("--from", dest="from_snapshot", type=int, help="from this one")
    parser.add_argument("--parent", type=int, help="end when this process, which is our parent, has ended")
    options = parser.parse_args(argv)
    if options.parent is not None:
        die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run_dir = RunDir(options.run_dir)
    settings = Settings.read(options.snapshots) if options.snapshots else None
    spec = json.loads(options.state) if options.state else None
    with Router(run_dir.store_socket, Edge.CLIENT_TO_STORE) as router:
        try:
            resumed = _make_space(run_dir, options, settings)
            space = open_space(run_dir.space)
        except NodeRuntimeError as error:
            return refuse(error, router)
        with space.write() as txn:
            set_limits(txn, options.history, ttl_to_ns((spec or {}).get("ttl")))
        store = Store(space)
        store.letters.run_has_ended = options.parent is not None
        snapshots = None
        if settings is not None:
            snapshots = Snapshots(space, settings, resumed, say)
            store.actions.update(snapshots.operations)
        service = Service(store, router, run_dir, options.purge_interval, spec, snapshots)
        code = service.run()
        ending = Boundary(say)
        ending.call("the end of the store", service.close)
        if snapshots is not None:
            ending.call("the end of the snapshots", snapshots.close)
    space.close()
    return code


def _make_space(run_dir: RunDir, options: argparse.Namespace, settings: Settings | None) -> bool:
    """Make the space when it is not there: from a snapshot if that was asked for. Whether its history continues."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    is_there = (run_dir.space / "data.mdb").exists()
    restored = None
    if not is_there and options.resume and settings is not None:
        try:
            backend = settings.open()
            try:
                restored = restore_newest(backend, run_dir.space, options.size, boot_id, options.from_snapshot)
            finally:
                backend.close()
        except (NodeRuntimeError, OSError):
            raise
        except Exception as error:  # of a backend that users have written
            raise StoreError(f"the snapshots in {settings.to} cannot be read: {describe(error)}") from error
    space = create(run_dir.space, options.size, boot_id)
    space.close()
    return is_there or restored is not None


if __name__ == "__main__":
    sys.exit(main())
