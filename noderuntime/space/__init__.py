"""The space: the LMDB environment in shared memory that holds messages, states and queues; the transaction of an event.

May import errors, merges, api, dataflow and ipc; the only user of LMDB.
Start reading in commit.py (the transaction of an event), then mailbox.py (how it is read), lives.py (claims), kvs.py.
"""
