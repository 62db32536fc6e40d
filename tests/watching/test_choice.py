"""Which topics are meant by names and patterns."""

from __future__ import annotations

import pytest

from noderuntime.watching.choice import chosen, problem

TOPICS = ["camera/image", "camera/depth", "detector/boxes"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (["camera/image"], ["camera/image"]),
        (["camera/*"], ["camera/image", "camera/depth"]),
        (["*"], TOPICS),
        (["*/boxes", "camera/image"], ["camera/image", "detector/boxes"]),
        (["camera/[dx]*", "camera/depth"], ["camera/depth"]),
        (["CAMERA/*"], []),
        (["camera"], []),
    ],
)
def test_names_and_patterns_choose_topics_in_the_order_of_the_dataflow(wanted: list[str], found: list[str]) -> None:
    assert chosen(wanted, TOPICS) == found


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (["camera/image"], ""),
        (["*"], ""),
        (["camera/imag"], "there is no topic 'camera/imag'; did you mean 'camera/image'?"),
        (["camera"], "there is no topic 'camera'; did you mean 'camera/"),
        (["camera/*", "z"], "there is no topic 'z'; the topics of this run are: camera/image, camera/depth, detector"),
        (["lidar/*"], "no topic is like 'lidar/*'; the topics of this run are: camera/image"),
        ([], "no topic is given"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(wanted: list[str], text: str) -> None:
    assert problem(wanted, TOPICS).startswith(text)
    assert bool(problem(wanted, TOPICS)) == bool(text)


def test_a_run_without_outputs_and_one_with_very_many() -> None:
    assert problem(["a/b"], []) == "there is no topic 'a/b': no node of this run has outputs"
    assert problem(["z"], [f"node{n}/out" for n in range(500)]).endswith("node19/out, ...")
