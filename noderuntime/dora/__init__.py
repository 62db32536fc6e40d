"""dora's dataflows: their files, what their nodes and operators see, and what runs them here.

May import errors, merges, api, dataflow, ipc, space, state, snapshot and node. The runtime imports nothing of it.
Start reading in reader.py (a dora file -> our model), then facts.py (what a child is told) and lines.py (printed lines
and log records as messages). The module `dora` of the children is in path/, which is first on their PYTHONPATH; its
`Node` is in node.py, and what makes an operator of ours of one of dora's is in operator_adapter.py.

The file becomes a Dataflow like any other, and the runtime runs that. What a child of such a run finds:

- `NODERUNTIME_DORA`: the path of a JSON file of facts (facts.py), written at each start of the run.
- `path/` first on PYTHONPATH. It does not reach an operator, which comes from a warm fork: its adapter sees to it.
- An operator's Code has the adapter `noderuntime.dora.operator_adapter:adapt`: `adapt(factory)` makes a factory of an
  operator of ours out of a class of dora's.
- A node's id is dora's. Operators of a node with several are `NODE.OPERATOR`, in the process NODE. Ids that are not in
  the facts are helpers (lines.py): notices about them are nothing to show.
- Lines and log records arrive as Arrow arrays of one text. A tick is our INPUT of a timer (its source begins with
  "timer/"), which the child turns into an empty NullArray.
- A node with timers or logs gets no STOP because its other inputs have ended, unless `exit_when_nodes_finish` is set;
  Node() returns when all nodes have called it.
"""
