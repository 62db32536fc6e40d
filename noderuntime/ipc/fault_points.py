"""Fault points inside modules that can be compiled. They do nothing unless the fault injector of the tests is there.

Most points are wrapped around a function from outside, when its module is imported (tests/support/inject). But the
functions of a compiled module call each other directly, and what replaces one of them is not called. So the points of
such a module are in its source:

    if point is not None:
        point("take")

Rejected: a decorator, because a decorated method of a compiled class is called by its name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

INJECTOR: Final = "noderuntime_fault_injector"  # the module that the injector enters into sys.modules before our import

_injector: Any = sys.modules.get(INJECTOR)

point: Final[Callable[[str], None] | None] = None if _injector is None else _injector.point
"""point(name): here something can go wrong. None outside of tests."""
