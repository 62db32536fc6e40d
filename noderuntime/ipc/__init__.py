"""One run as its processes see it: its folder and locks, control messages and sockets, doorbells, pulses, wiring.

May import errors, api and dataflow.
Start reading in protocol.py (every message that crosses ZeroMQ, sorted by edge); only channel.py imports zmq.
"""
