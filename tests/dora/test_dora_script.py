"""A node in a warm fork cannot tell that the interpreter was not called with it; and it is there soon after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.dora_flow import WITHIN_S, Flow
from support.harness import wait_until

from noderuntime.dora.operator_adapter import PATH
from noderuntime.dora.script import hides_loaded, search_path

FACTS = """
import atexit, json, multiprocessing, os, sys, threading, time

def work(number):
    return number + 1

class Kept:
    pass

if __name__ == "__main__":
    import pickle
    facts = {
        "argv": sys.argv, "first": sys.path[0], "python_path": [p for p in sys.path if p.endswith("extra")],
        "file": __file__, "module": sys.modules["__main__"].__file__, "kept": pickle.dumps(Kept()).hex(),
        "spec": __spec__ is None, "cwd": os.getcwd(), "where": __import__("__main__").work is work,
    }
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        facts["spawned"] = pool.map(work, [1, 2])
    with open(os.environ["FACTS"], "w") as out:
        json.dump(facts, out)
    sys.stdout.write("not flushed")
    def late():
        time.sleep(0.2)
        with open(os.environ["FACTS"] + ".late", "w") as out:
            out.write("thread")
    threading.Thread(target=late).start()
    def at_exit():
        with open(os.environ["FACTS"] + ".late", "a") as out:
            out.write(", exit")
    atexit.register(at_exit)
"""
ALONE = "nodes:\n- {id: n, path: sub/n.py, args: --count 3}"


def test_a_node_finds_what_an_interpreter_that_is_called_with_it_has(flow: Flow) -> None:
    flow.write("sub/n.py", FACTS)
    (flow.folder / "extra").mkdir()
    extra = str(flow.folder / "extra")
    script = str(flow.folder / "sub" / "n.py")
    env = flow.environ(FACTS=str(flow.folder / "plain"), PYTHONPATH=os.pathsep.join((PATH, extra)))
    subprocess.run([sys.executable, script, "--count", "3"], cwd=flow.folder, env=env, check=True, timeout=WITHIN_S)
    done = flow.run(ALONE, FACTS=str(flow.folder / "ours"), PYTHONPATH=extra)
    assert done.returncode == 0, done.stderr
    assert "not flushed" in done.stdout
    plain, ours = (json.loads((flow.folder / name).read_text()) for name in ("plain", "ours"))
    assert ours == plain
    assert ours["spawned"] == [2, 3]
    for name in ("plain.late", "ours.late"):
        assert (flow.folder / name).read_text() == "thread, exit"


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        ("import sys; sys.exit('no camera')", 1, "no camera"),
        ("import sys; sys.exit(7)", 7, ""),
        ("raise SystemExit", 0, ""),
        ("def fail():\n    raise ValueError('lost')\nfail()", 1, "ValueError: lost"),
        ("import os; os._exit(5)", 5, ""),
    ],
)
def test_a_node_ends_as_an_interpreter_ends(flow: Flow, program: str, code: int, says: str) -> None:
    flow.write("sub/n.py", program)
    plain = subprocess.run(
        [sys.executable, str(flow.folder / "sub" / "n.py")], cwd=flow.folder, env=flow.environ(), capture_output=True,
        text=True, timeout=WITHIN_S, check=False,
    )  # fmt: skip
    assert plain.returncode == code
    done = flow.run(ALONE)
    assert done.returncode == (1 if code else 0)
    said = done.stdout + done.stderr
    assert says in said
    for line in plain.stderr.splitlines():  # the same traceback, without a frame of ours
        assert line in said
    assert "noderuntime/dora" not in said
    if code > 1:
        assert f"exit code {code}" in said


def test_a_module_of_its_own_is_imported_although_another_one_of_that_name_is_loaded(flow: Flow) -> None:
    flow.write("sub/queue.py", "MINE = True")
    flow.write("sub/n.py", "import queue, sys\nassert queue.MINE\nprint('own', sys.argv)")
    done = flow.run(ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "own" in done.stdout


def test_which_names_are_loaded_already_is_seen_in_the_folder(tmp_path: Path) -> None:
    assert not hides_loaded(tmp_path)
    (tmp_path / "camera_of_mine.py").write_text("")
    (tmp_path / "json.txt").write_text("")
    assert not hides_loaded(tmp_path)
    (tmp_path / "numpy").mkdir()
    assert not hides_loaded(tmp_path)
    (tmp_path / "numpy" / "__init__.py").write_text("")
    assert hides_loaded(tmp_path)


def test_the_search_path_begins_with_the_folder_then_pythonpath() -> None:
    found = search_path(Path("/flow/sub"), "/a::/b", ["/lib", "/b", "/site"])
    assert found == ["/flow/sub", "/a", "/b", "/lib", "/site"]


def test_variables_that_an_interpreter_reads_at_its_start_have_their_effect(flow: Flow) -> None:
    flow.write("sub/n.py", "import sys; print('optimized', sys.flags.optimize)")
    done = flow.run("nodes:\n- {id: n, path: sub/n.py, env: {PYTHONOPTIMIZE: 1}}")
    assert "optimized 1" in done.stdout


def test_random_numbers_of_two_nodes_differ(flow: Flow) -> None:
    program = "import random, sys, numpy as np\nprint('drew', random.random(), np.random.rand())"
    for name in ("a", "b"):
        flow.write(f"{name}.py", program)
    done = flow.run("nodes:\n- {id: a, path: a.py}\n- {id: b, path: b.py}")
    drawn = [line.split("drew ")[1].split() for line in done.stdout.splitlines() if "drew " in line]
    assert len(drawn) == 2
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


def test_a_node_that_is_interrupted_ends_by_that_signal(flow: Flow) -> None:
    flow.write("sub/n.py", "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)")
    done = flow.run(ALONE)
    assert done.returncode == 1
    assert "KeyboardInterrupt" in done.stdout + done.stderr
    assert "SIGINT" in done.stdout + done.stderr


def test_killed_again_and_again_it_goes_on(flow: Flow) -> None:
    flow.write("up.py", """
        import os, time
        from dora import Node
        node = Node()
        with open("lives", "a") as lives:
            lives.write(f"{os.getpid()}\\n")
        for event in node:
            pass
        """)  # fmt: skip
    flow.write("d.yml", """
        nodes:
        - {id: n, path: up.py, restart_policy: always, restart_delay: 0, inputs: {t: dora/timer/millis/50}}
        """)  # fmt: skip
    flow.start("run", "--dora", "d.yml")
    file = flow.folder / "lives"
    for life in range(1, 6):
        wait_until(lambda life=life: file.exists() and len(file.read_text().splitlines()) >= life, f"life {life}")
        time.sleep(0.05)
        if life < 5:
            flow.kill("n")
    assert len(set(file.read_text().split())) == 5
