"""The space: everything that a running dataflow is, apart from its code, in one LMDB environment on shared memory.

The only package that imports lmdb. `space` opens it, `keys` and `records` say what lies in it, `commit` is the event
transaction, `mailbox` reads, `claims` begins and ends lives, `shared` is the shared KVS.
"""
