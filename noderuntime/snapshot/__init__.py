"""Snapshots: a consistent cut of the space, and the places where cuts are kept: folder, object store, SlateDB.

May import errors, api, dataflow, ipc and space; knows nothing of state.
Start reading in format.py (what a snapshot is), then cut.py (how it is taken), backend.py (where it goes) and keeper.py
(which does all of it).
"""
