"""Fields of dora's files that are not honoured here, and what to do instead. Pure.

A field is either honoured, or refused with such a sentence, or, where it is an annotation that changes nothing of what
runs, accepted with a line that says so. There is no fourth way.
"""

from __future__ import annotations

from typing import Final

_GIT = "Clone the repository yourself, and write `path:` and `build:` of what is in it."

NODE: Final = {
    "git": f"Sources are not fetched here. {_GIT}",
    "branch": f"Sources are not fetched here. {_GIT}",
    "tag": f"Sources are not fetched here. {_GIT}",
    "rev": f"Sources are not fetched here. {_GIT}",
    "hub": "Packages of the hub are not fetched here. Install the package, and write `path:` of its program.",
    "path_sha256": "Programs are not downloaded here. Download it yourself, check it, and write its `path:`.",
    "ros2": "There is no ROS 2 bridge here. Write a node that uses rclpy and sends what it receives.",
    "deploy": "All nodes run on this machine. Remove it; nodes of other machines are run with dora itself.",
}

ROOT: Final = {
    "deploy": "All nodes run on this machine. Remove it; nodes of other machines are run with dora itself.",
}

OPERATOR: Final = {
    "shared-library": "Operators are Python here. Write `python: FILE.py`, or a node with `path:` of a program.",
    "wasm": "Operators are Python here. Write `python: FILE.py`, or a node with `path:` of a program.",
}

CONDA: Final = "Operators run in the environment of noderuntime. Install it in that conda environment, and remove this."
STRICT_TYPES: Final = "Type annotations are not checked here. Remove it, and check them with `dora validate`."
URL: Final = "Programs are not downloaded here. Download it yourself, and write the path of the file."
SHELL: Final = "Give `--allow-shell-nodes` (or set DORA_ALLOW_SHELL_NODES=true) if you trust this file."

ANNOTATIONS: Final = ("output_types", "input_types", "output_metadata", "pattern", "type_rules")
"""Fields that say what data look like. Nothing of what runs depends on them."""

UNCHECKED: Final = "type annotations are not checked here (`dora validate` does)"
"""What is said, once, of a file that has some."""

LOG_FILES: Final = "log files of noderuntime have their own limit: two files of 64 MB for each node"
"""What is said, once, of a file with max_log_size or max_rotated_files."""
