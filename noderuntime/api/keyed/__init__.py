"""Operators that keep a state per key: `stateful_map` (a function) and `KeyedOperator` (a class)."""
