from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noderuntime.dataflow.snapshot_place import SnapshotPlace, WrongPlace, parse


@pytest.mark.parametrize(
    ("to", "place"),
    [
        ("", SnapshotPlace("default")),
        ("none", SnapshotPlace("none")),
        ("./kept", SnapshotPlace("directory", "./kept")),
        ("kept/", SnapshotPlace("directory", "kept")),
        ("/", SnapshotPlace("directory", "/")),
        ("~/kept", SnapshotPlace("directory", "~/kept")),
        ("./NONE", SnapshotPlace("directory", "./NONE")),
        ("./s3:/b", SnapshotPlace("directory", "./s3:/b")),
        ("what? a place", SnapshotPlace("directory", "what? a place")),
        ("s3://bucket", SnapshotPlace("objects", "s3://bucket")),
        ("s3://bucket/a/b/", SnapshotPlace("objects", "s3://bucket/a/b")),
        ("gs://bucket/a", SnapshotPlace("objects", "gs://bucket/a")),
        ("az://bucket/a", SnapshotPlace("objects", "az://bucket/a")),
        ("slatedb+s3://bucket/a", SnapshotPlace("objects", "s3://bucket/a", slate=True)),
        ("slatedb+~/x", SnapshotPlace("directory", "~/x", slate=True)),
    ],
)
def test_a_place_is_what_it_says(to: str, place: SnapshotPlace) -> None:
    assert parse(to) == place


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("s3:/b/x", "s3://b/x"),
        ("S3://b/x", "s3://b/x"),
        ("s3a://b/x", "s3://b/x"),
        ("gcs://b/x", "gs://b/x"),
        ("memory://x", "memory:// is not a kind of place"),
        ("ftp://example", "az://"),
        ("file:///mnt/kept", "path"),
        ("s3://b//x", "s3://b/x"),
        ("s3://b/../x", "s3://b/x"),
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("s3://b/x?region=us-east-1", "options"),
        ("s3://b/x#y", "options"),
        ("s3://b/x y", "spaces"),
        ("s3://key:secret@b/x", "environment"),
        ("s3://localhost:9000/b", "endpoint"),
        ("None", "none"),
        ("NONE", "none"),
        ("null", "none"),
        ("~nobody/x", "in full"),
        ("slatedb+", "slatedb+"),
        ("slatedb+none", "slatedb+"),
        ("SlateDB+s3://b", "small letters"),
        ("slatedb+S3://b/x", "s3://b/x"),
        ("slatedb+memory://x", "memory://"),
    ],
)
def test_a_place_that_is_mistyped_is_refused_with_what_was_meant(to: str, told: str) -> None:
    with pytest.raises(WrongPlace) as error:
        parse(to)
    assert told in str(error.value)
    assert "secret" not in str(error.value)


@given(st.text(max_size=40), st.sampled_from(["", "s3://", "S3:/", "slatedb+", "~", "az://b/"]))
def test_any_text_is_a_place_or_a_wrong_one_and_what_it_stands_for_is_again_that_place(text: str, start: str) -> None:
    with contextlib.suppress(WrongPlace):
        place = parse(start + text)
        if place.where and not place.slate:
            assert parse(place.where) == place


def test_two_runs_below_one_place_have_two_addresses() -> None:
    place = parse("s3://bucket/prefix/")
    assert (place.below("one"), place.below("two")) == ("s3://bucket/prefix/one", "s3://bucket/prefix/two")
