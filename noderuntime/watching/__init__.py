"""Looking at a run: taps, which show what flows without holding anybody up, and the process that serves them.

May import errors, merges, api, dataflow, ipc and space. Neither the nodes nor the runtime import it.
Start reading in tap.py (what users call, and the whole way of a message to it), then server.py.
"""
