"""The store process: every operation on the space that is not part of an event, for all who do not open it.

May import errors, merges, api, dataflow, ipc, space, state, snapshot and node.
Start reading in operations.py (what can be asked); service.py is the process, with its sockets and its loop.
"""
