"""Snapshots: a consistent cut of the space, kept where it outlives the machine.

    format      what a snapshot is: manifest, parts, key index. Pure
    cut         one read transaction of the space, walked into local files
    backend     where snapshots are kept: the contract
    places      which backend a dataflow names: `open_backend`
    blobs       the part of a backend that directories and object stores have in common
    directory   a folder; objects: s3://, gs://, az://; slate: slatedb+...
    restore     a snapshot back into a space
"""
