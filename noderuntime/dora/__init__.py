"""dora's dataflows, with its Python nodes and operators as they are: the module `dora` that they import is in path/.

May import api, dataflow, ipc, node. Start reading in node.py.
"""
