"""The supervisor process of a run: starts, watches and restarts the other processes. It never opens the space.

May import errors, api, dataflow, ipc and snapshot (its settings only).
Start reading in lifecycle.py (the decision to start, restart, kill or give up: a pure table), then children.py (carries
it out) and runtime.py (the loop of the process: phases of the run, signals such as SIGTERM).
"""
