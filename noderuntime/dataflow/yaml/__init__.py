"""A YAML tree whose parts know their line and column, and readers of single fields of it."""
