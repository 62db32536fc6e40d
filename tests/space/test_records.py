"""Records come back as they were packed."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noderuntime.api import values
from noderuntime.space import records

METADATA = st.none() | st.dictionaries(st.text(max_size=5), st.integers(0, 99) | st.text(max_size=5), max_size=3)


@given(
    st.binary(max_size=50) | st.text(max_size=50) | st.lists(st.integers(0, 9)) | st.none(),
    METADATA,
    st.integers(1, 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
)
def test_a_message_comes_back_as_it_was_encoded(
    value: Any, metadata: dict[str, Any] | None, number: int, sent: int
) -> None:
    record, _ = records.encode_message(value, metadata, number, sent)
    kind, *found = records.decode_message(record)
    assert kind < records.NOTICE_MIN
    assert found == [value, metadata or {}, number, sent]


def test_an_array_with_metadata_comes_back() -> None:
    array = np.arange(6, dtype=">u2").reshape(2, 3)
    _, back, metadata, _, _ = records.decode_message(records.encode_message(array, {"camera": 1}, 1, 2)[0])
    assert back.dtype == array.dtype and (back == array).all()
    assert metadata == {"camera": 1}


def test_metadata_may_be_any_mapping() -> None:
    record, _ = records.encode_message(1, MappingProxyType({"a": 1}), 1, 2)
    assert records.decode_message(record)[2] == {"a": 1}


@pytest.mark.parametrize("metadata", [[1], "text", 5, {1: 2}, {"a": object()}])
def test_metadata_that_cannot_travel_is_refused(metadata: Any) -> None:
    with pytest.raises(TypeError):
        records.encode_message(1, metadata, 1, 2)


@pytest.mark.parametrize("kind", records.NOTICE_TYPES)
def test_a_notice_comes_back_and_is_no_value(kind: int) -> None:
    assert records.decode_message(records.encode_notice(kind, "a", "why", 9)) == (kind, ["a", "why"], {}, 0, 9)


def test_no_kind_of_value_is_taken_for_a_notice() -> None:
    assert max(values.MSGPACK, values.BYTES, values.NDARRAY, values.ARROW) < records.NOTICE_MIN


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([records.LIVE, records.ENDED, records.FAILED]),
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 2**64 - 1), max_size=9),
)
def test_a_node_record_comes_back(incarnation: int, status: int, commit: int, counters: list[int]) -> None:
    back = records.NodeRecord.parse(records.NodeRecord(incarnation, status, commit, counters).pack())
    assert (back.incarnation, back.status, back.commit, back.counters) == (incarnation, status, commit, counters)


def test_cells_of_inputs_and_outputs_never_meet() -> None:
    outputs = [records.output_counter(number) for number in range(50)]
    inputs = [records.input_counter(number) + which for number in range(50) for which in (0, 1)]
    assert len({*outputs, *inputs}) == 150
