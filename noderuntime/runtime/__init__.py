"""The supervisor process of a run: starts, watches and restarts the other processes. It never opens the space.

May import errors, api, dataflow, ipc and snapshot (its settings only).
Start reading in lifecycle.py (what is decided, a pure table), then nodes.py (who carries it out) and runtime.py.
"""
