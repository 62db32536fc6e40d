"""The supervisor process of a run: starts, watches and restarts the other processes. It never opens the space.

May import errors, api, dataflow, ipc and snapshot (its settings only).
Start reading in lifecycle.py (the decision to start, restart, kill or give up on a node), then children.py (carries it
out). The same for the run as a whole: phases.py decides, runtime.py carries out; signals.py takes SIGTERM and others
in, ending.py cleans up.
"""
