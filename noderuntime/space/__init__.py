"""The space: the LMDB environment in shared memory that holds messages, states and queues; the transaction of an event.

May import errors, merges, api, dataflow and ipc; the only user of LMDB.
Start reading in commit.py (the transaction of an event), then staging.py (what an event stages before it), mailbox.py
(how its messages are read), lives.py (claims), reconcile.py (what `--resume` refuses to lose), kvs.py. transactions.py
holds only the types of LMDB's transactions.
"""
