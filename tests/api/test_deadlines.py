from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from noderuntime.api.keyed import deadlines
from noderuntime.api.keyed.deadlines import Deadlines

TEXTS = st.sampled_from("abcdefg")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), TEXTS, st.integers(0, 9)),
        st.tuples(st.just("discard"), TEXTS, st.just(0)),
        st.tuples(st.just("take"), st.just(""), st.integers(0, 9)),
        st.tuples(st.just("load"), TEXTS, st.integers(0, 9)),
    ),
    max_size=60,
)


@given(STEPS)
def test_the_earliest_comes_first_whatever_was_set_and_moved_before(steps: list[tuple[str, str, int]]) -> None:
    held: dict[str, float] = {}
    deadlines = Deadlines()
    for what, text, at in steps:
        if what == "set":
            held[text] = at
            deadlines.set(text, at)
        elif what == "discard":
            held.pop(text, None)
            deadlines.discard(text)
        elif what == "load":
            held = {text: at}
            deadlines.load([(text, at)])
        else:
            due = min(((when, name) for name, when in held.items() if when <= at), default=None)
            assert deadlines.take(at) == due
            if due is not None:
                del held[due[1]]
        assert deadlines.first() == min(((when, name) for name, when in held.items()), default=None)
        assert len(deadlines) == len(held)


def test_times_that_are_moved_again_and_again_do_not_fill_the_memory() -> None:
    held = Deadlines()
    for number in range(20 * deadlines.SPARE):
        held.set("a", -number)
        held.set("b", number)
        held.discard("c")
        held.set("c", number % 7)
    assert len(held._heap) <= 2 * 3 + deadlines.SPARE + 1
    assert held.first() == (1.0 - 20 * deadlines.SPARE, "a")
