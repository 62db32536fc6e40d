"""What comes over the sockets and is not ours, too large, truncated, of another time: dropped, and nobody is harmed."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import zmq
from support.flows import chain
from support.stage import Stage

import noderuntime
from noderuntime.ipc.protocol import FRAME_BYTES_MAX, VERSION, Bye, Hello, Ready, Request, StopAll, encode

ROOT = Path(noderuntime.__file__).parent


def frames(rng: random.Random) -> list[list[bytes]]:
    """Many bad ideas of what to send."""
    whole = [
        encode(Hello(VERSION, "a", "operator", 1, 1)), encode(Hello(VERSION + 1, "a", "operator", 1, 1)),
        encode(Hello(VERSION, "nobody", "node", 1, 1)), encode(Ready(7)), encode(Bye(True, "")), encode(StopAll()),
        encode(Request(VERSION, "runtime-1", 1, "quit!", {})), encode(Request(VERSION, "runtime-1", 0, "touch", {})),
        encode(Request(VERSION, "stranger", 1, "end", {"node": 7})),
        encode(Request(VERSION + 1, "stranger", 1, "end", {"node": "a", "failed": True, "error": "x"})),
    ]  # fmt: skip
    found = [[frame] for frame in whole] + [[frame[: rng.randrange(len(frame))]] for frame in whole]
    found += [[rng.randbytes(rng.randint(1, 200))] for _ in range(200)]
    found += [[whole[0], whole[1]], [b""], [b"", b"", b""], [b"x" * (FRAME_BYTES_MAX + 1)]]
    return found


def test_strangers_on_both_sockets_harm_nobody() -> None:
    dataflow = chain(300)
    with Stage() as stage, zmq.Context() as context:
        running = stage.start(dataflow.yaml(str(stage.root)))
        running.wait_for("started")
        rng = random.Random(1)
        for name in ("runtime.sock", "store.sock"):
            for parts in frames(rng):
                with context.socket(zmq.DEALER) as dealer:
                    dealer.setsockopt(zmq.LINGER, 500)
                    dealer.connect(f"ipc://{stage.folder.run_dir().root / name}")
                    dealer.send_multipart(parts)
        stage.complete(dataflow)
        stage.check(dataflow)
        stage.finish()


def test_nothing_is_ever_unpickled() -> None:
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "marshal", "shelve", "cloudpickle", "dill"}, path
