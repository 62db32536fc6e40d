"""Beside the nodes of a differential test: what they see, as lines of JSON. It runs with dora and with ours."""

import datetime
import json
import os
import sys
from pathlib import Path


def say(*facts, name=None):
    """Add a line to the records of this program."""
    file = Path(os.environ["RECORDS"]) / f"{name or Path(sys.argv[0]).stem}.jsonl"
    with file.open("a") as records:
        records.write(json.dumps(facts, default=str) + "\n")


def shown(event):
    """An event without its times: keys, type, id, value and metadata with their types."""
    if event is None:
        return None
    told = {key: event.get(key) for key in ("type", "id", "kind", "error")}
    told["keys"] = sorted(event)
    if told["error"]:
        told["error"] = told["error"].split("\n")[0]
    if event["type"] == "INPUT":
        value, metadata = event["value"], event["metadata"]
        told["value"] = [str(value.type), value.to_pylist(), value.offset, value.null_count, type(value).__name__]
        told["metadata"] = {key: typed(item) for key, item in sorted(metadata.items()) if key != "timestamp"}
        stamp = metadata["timestamp"]
        told["timestamp"] = [type(stamp).__name__, str(getattr(stamp, "tzinfo", None))]
    elif "value" in event:
        told["value"] = event["value"]
    return told


def typed(value):
    if isinstance(value, list):
        return ["list", [typed(item) for item in value]]
    if isinstance(value, datetime.datetime):
        return ["datetime", str(value.tzinfo), value.timestamp()]
    return [type(value).__name__, value]


def refused(call, *given, **named):
    """What a call returns, or the name and the first line of what it raises."""
    try:
        return ["returned", call(*given, **named)]
    except Exception as error:
        return ["raised", type(error).__name__, str(error).split("\n")[0]]
