"""Makes NAME.tar.gz: python make.py PATH/TO/noderuntime NAME [FLOW], the command of the build whose run is to be kept.

The run is in /tmp/flow, so that no path of a machine is kept; sockets, doorbells, locks and logs are left out,
and the space's identifier of the machine's boot is replaced by zeros.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

HERE = Path(__file__).parent
FLOW = Path("/tmp/flow")
HOME = FLOW / "home"
LEFT_OUT = {"bell", "lock", "logs", "pulse"}


def keep(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Folders and regular files, without owners."""
    if LEFT_OUT & set(Path(info.name).parts) or not (info.isdir() or info.isreg()):
        return None
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def main(command: str, name: str, flow: str = "flow") -> None:
    shutil.copytree(HERE / flow, FLOW, ignore=shutil.ignore_patterns("__pycache__"))
    environ = {**os.environ, "NODERUNTIME_HOME": str(HOME)}
    run_file = HOME / "runs" / "flow" / "run.json"
    with subprocess.Popen([command, "run", "flow.yml"], cwd=FLOW, env=environ) as process:
        while not list((HOME / "state" / "flow" / "snapshots").glob("*.json")):
            time.sleep(0.1)
        time.sleep(3.0)
        os.kill(json.loads(run_file.read_text())["pid"], signal.SIGKILL)
        process.wait()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for path in (run_file, HOME / "runs" / "flow" / "space" / "data.mdb"):
        path.write_bytes(path.read_bytes().replace(boot.encode(), b"0" * len(boot)))
    with tarfile.open(HERE / f"{name}.tar.gz", "w:gz") as archive:
        archive.add(HOME, "home", filter=keep)
    shutil.rmtree(FLOW)


if __name__ == "__main__":
    main(*sys.argv[1:])
