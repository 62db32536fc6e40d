"""The dataflow file: YAML text to a frozen model, with errors that name the place, and drawings of it. Pure.

May import errors and api; only files.py and imports.py read files, and nothing here executes what it finds.
Start reading in model.py (what a file says), then reader.py (how it is read); yaml/ knows lines and columns.
"""
