"""Dataflows to start from. `noderuntime run` takes the YAML files; the programs of their nodes lie beside them."""
