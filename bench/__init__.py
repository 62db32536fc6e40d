"""Measurements against peers. `make bench` runs all of them; `python -m bench.hop` runs one."""
