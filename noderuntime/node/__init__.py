"""The processes of nodes: the session with the space, the operator host, and `Node` for custom nodes.

May import errors, merges, api, dataflow, ipc, space and state; knows nothing of the runtime.
Start reading in session.py (what every node's process has), then operator_host.py and custom_node.py. Both turn
messages into events in inbox.py; context.py is the `ctx` of an operator's methods. Operators that share a process:
chain.py, then chain_host.py.
"""
