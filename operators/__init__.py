"""Operators ready to use, and to copy from: `python: .../running_sum.py`, or `module:
noderuntime.operators.running_sum`.

Each is one module with a class `Operator`; its docstring tells inputs, outputs and `config:`.
"""
