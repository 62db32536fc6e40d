"""Which dataflow a resumed run goes on with."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from noderuntime.dataflow import plain
from noderuntime.dataflow.model import Dataflow
from noderuntime.dataflow.reader import parse
from noderuntime.dataflow.replicas import expanded
from noderuntime.ipc.change_records import InForce
from noderuntime.runtime.resuming import decide, which, wirings_of


def dataflow(*ids: str, file: str = "flow.yml", **more: Any) -> Dataflow:
    nodes = [{"id": id, "path": f"{id}.py", "outputs": ["n"]} for id in ids]
    return parse(json.dumps({"nodes": nodes, **more}), file=file, folder="/flow", env={})


FILE = dataflow("a")
APPLIED = dataflow("a", "b", file="other.yml")


def in_force(**more: Any) -> InForce:
    found: InForce = {
        "dataflow": plain.to_text(APPLIED), "leaving": "", "file": "other.yml", "digest": "of the start",
        "changing": "", "applied": True, "version": 3, "changes": 2,
    }  # fmt: skip
    return {**found, **more}  # type: ignore[typeddict-item]


def test_where_nothing_was_applied_the_file_goes_on() -> None:
    found = decide(in_force(applied=False, dataflow=""), FILE, "of the start")
    assert (found.dataflow, found.as_applied, found.told) == (FILE, False, ())


def test_a_file_as_at_the_last_start_gives_way_to_what_was_applied_since_and_that_is_said() -> None:
    found = decide(in_force(), FILE, "of the start")
    assert found.as_applied and found.dataflow == APPLIED
    assert found.told == (
        "going on with the dataflow of other.yml, which was applied; flow.yml is as at the last start",
    )


def test_a_file_that_has_changed_since_goes_on_and_that_is_said() -> None:
    found = decide(in_force(), dataflow("a", "c"), "another")
    assert not found.as_applied and found.dataflow == dataflow("a", "c")
    assert "flow.yml, which has changed since the last start, and not with the dataflow of other.yml" in found.told[0]
    of_file = in_force(file="/flow/flow.yml")
    (told,) = decide(of_file, FILE, "another digest").told
    assert told.endswith("has changed since the last start, and not with what was applied of it before")


def test_a_file_that_says_what_was_applied_goes_on_without_a_word() -> None:
    found = decide(in_force(), replace(APPLIED, file="flow.yml"), "another")
    assert found.as_applied and found.told == ()


def test_which_dataflow_goes_on_is_said_of_a_run_that_was_changed_and_of_a_snapshot_that_was_named() -> None:
    def said(found: InForce, digest: str, of_snapshot: bool = False) -> str:
        return which(found, decide(found, FILE, digest), "/flow/flow.yml", of_snapshot)

    applied, before = in_force(), in_force(applied=False, dataflow="", changes=0)
    now = replace(APPLIED, file="flow.yml")
    told = which(applied, decide(applied, now, "another"), "/flow/flow.yml", False)
    assert told == "going on with the dataflow of other.yml, after 2 changes"
    assert said(applied, "of the start") == said(applied, "another") == ""  # `decide` says so
    assert said(before, "of the start") == ""
    assert said(before, "of the start", of_snapshot=True) == "going on with the dataflow of /flow/flow.yml"


def test_who_says_what_may_be_dropped_means_the_file() -> None:
    found = decide(in_force(), FILE, "of the start", insists=True)
    assert not found.as_applied and found.dataflow == FILE


def test_the_sections_about_state_are_those_of_the_file() -> None:
    found = decide(in_force(), dataflow("a", snapshots={"every": "9s"}), "of the start")
    assert found.as_applied and found.dataflow.snapshots.every_s == 9.0


def test_a_change_that_was_interrupted_is_named_as_undone() -> None:
    found = decide(in_force(applied=False, dataflow="", changing="new.yml"), FILE, "of the start")
    assert found.told == ("a change to new.yml was interrupted before it was in force, and is undone",)


def test_nodes_that_still_drained_drain_on() -> None:
    found = decide(in_force(leaving=plain.to_text(dataflow("gone"))), FILE, "of the start")
    assert found.leaving == dataflow("gone")


def test_all_of_a_dataflow_is_read_as_it_was_written() -> None:
    node = replace(FILE.nodes[0], cpus=(0, 1), endless=True)
    kept = replace(FILE, nodes=(node,))
    assert plain.from_text(plain.to_text(kept)) == kept


def replicas(count: int) -> Dataflow:
    text = json.dumps({"nodes": [
        {"id": "a", "operator": {"python": "a.py", "outputs": ["x"]}},
        {"id": "b", "replicas": count, "operator": {"python": "b.py", "inputs": {"x": "a/x"}}},
    ]})  # fmt: skip
    return parse(text, file="flow.yml", folder="/flow", env={})


def test_the_number_of_the_file_rules_over_that_of_scale_and_it_is_said() -> None:
    found = decide(in_force(applied=False, dataflow="", scaled={"b": 4}), expanded(replicas(2)), "of the start")
    assert found.dataflow == expanded(replicas(2)) and not found.as_applied
    assert found.told == (
        "node 'b' gets 2 replicas again, as in flow.yml: the 4 of `scale` held until this resume",
    )


def test_a_number_of_scale_that_is_in_the_file_by_now_is_not_told_of() -> None:
    assert decide(in_force(applied=False, dataflow="", scaled={"b": 4}), expanded(replicas(4)), "another").told == ()
    assert decide(in_force(applied=False, dataflow="", scaled={"gone": 4}), FILE, "another").told == ()


def test_an_applied_dataflow_begins_with_the_number_of_scale_and_goes_back_to_that_of_its_file() -> None:
    kept = in_force(dataflow=plain.to_text(replicas(2)), file="new.yml", scaled={"b": 4})
    found = decide(kept, FILE, "of the start")
    assert found.as_applied and found.dataflow == expanded(replicas(4)) and found.scaled == {"b": 4}
    assert found.applied == ("new.yml", replicas(2))
    assert found.told[-1].startswith("node 'b' gets 2 replicas again, as in new.yml")


def test_operators_that_are_leaving_share_their_process_still() -> None:
    op = {"python": "x.py", "outputs": ["n"]}
    nodes = [{"id": id, "operator": op, "process": process} for id, process in (("a", "p"), ("b", "q"), ("c", "p"))]
    leaving = parse(json.dumps({"nodes": nodes}), file="flow.yml", folder="/flow", env={})
    found = decide(in_force(leaving=plain.to_text(leaving)), FILE, "of the start")
    numbers = {id: {"number": at, "inputs": {}, "outputs": {"n": 0}} for at, id in enumerate("abc")}
    opened: Any = {"numbers": numbers, "leaving": ["a", "c"]}
    made = wirings_of(replace(found, dataflow=dataflow("b")), "run", opened)
    assert [other.node for other in made["a"][1].others] == ["c"]
    assert made["b"][1].others == made["c"][1].others == ()
