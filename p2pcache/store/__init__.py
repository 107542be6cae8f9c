"""The only owner of data on disk.

    store.py     the facade: `Store.open`, and every call that others make
    layout.py    paths and `StoreOptions`
    blobs.py     complete blobs: find, publish, adopt, remove
    partial.py   blobs that are not complete: data, map, live and have
    index.py     SQLite: names and blobs         records.py   refs, manifests, pins, receipts
    recovery.py  a damaged index is replaced     repair.py    a damaged blob keeps its good blocks
    removal.py   what `rm` takes away            ties.py      nodes that go with content
    pairs.py     both names of what left         unlisted.py  folders before their manifest
    adoptions.py folders of others               origin_costs.py  errors, copies, uploads
    policy.py    what goes when room is needed (pure)         gc.py   room, sweeping, lost rows
    lease.py     exclusive use without flock     durable.py   fsync, replace, one table of errors
    hfcache/, folder.py, placing.py, links.py    how a blob is shown to other tools

A byte's way: a worker writes `partial-v1/<name>/data`; `publish` syncs it and renames it to
`blobs-v1/ab/<sha256>`; `find` gives its path to whoever shows or serves it.
"""
