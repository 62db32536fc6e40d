"""What an operator is written with: events, values, `Operator`, `Source` and keyed operators. Pure.

May import errors and merges.
Start reading in operator.py, then events.py and values.py; keyed/ has the operators with a state per key.
"""
