"""How the operator of a new life is made: its code loaded, the object made, its state restored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from noderuntime.api.events import Event
from noderuntime.api.keyed.operator import KeyedOperator
from noderuntime.api.operator import make, own_state, position_of
from noderuntime.errors import OperatorError
from noderuntime.ipc.boundary import describe
from noderuntime.node.context import OperatorContext
from noderuntime.node.session import NodeSession
from noderuntime.node.user_code import load_code, user_trace


class Made(NamedTuple):
    """An operator. `produces`: it is a Source; `position` is then where it continues."""

    operator: Any
    on_event: Callable[[Event, OperatorContext], Any]
    produces: bool
    position: Any


class NoReplicas(OperatorError):
    """The operator can have no replicas."""


def make_operator(session: NodeSession, ctx: OperatorContext, state: dict[str, bytes]) -> Made:
    """Load, make and restore the operator of a node. Raises OperatorError."""
    code = session.wiring.code
    factory = load_code(code)
    where = "init"
    try:
        operator = make(factory, ctx)
        produces = hasattr(operator, "produce")
        if not produces and not hasattr(operator, "on_event"):
            raise OperatorError("init", f"{code['name']} has neither on_event nor produce")
        if not produces and not session.inputs:
            raise OperatorError(
                "init",
                f"{code['name']} has no inputs in the dataflow file and is no Source: it would never be called",
            )
        if produces and session.mailboxes:
            names = ", ".join(item.name for item in session.inputs.values())
            raise OperatorError("init", f"{code['name']} is a Source, which takes no inputs; remove: {names}")
        if session.wiring.replicas and (problem := replica_problem(operator, session.wiring.partition)):
            raise NoReplicas("init", f"{code['name']} cannot have replicas: {problem}")
        where = "restore_state"
        own = own_state(state)
        if own and hasattr(operator, "restore_state"):
            operator.restore_state(own)
        return Made(operator, getattr(operator, "on_event", _ignore), produces, position_of(state))
    except OperatorError:
        raise
    except BaseException as error:
        raise OperatorError(where, describe(error), user_trace(error)) from None


def replica_problem(operator: Any, partition: str) -> str:
    """Why an operator cannot have replicas; "" if it can, as far as its class tells."""
    if hasattr(operator, "produce"):
        return "it is a Source, and each of them would produce everything"
    if not isinstance(operator, KeyedOperator):
        return ""
    return operator.replica_problem() or (
        "" if partition else "it keeps a state for each key, so `partition_by` has to say which replica gets a message"
    )


def _ignore(event: Event, ctx: OperatorContext) -> None:
    """The handler of a Source without on_event."""
