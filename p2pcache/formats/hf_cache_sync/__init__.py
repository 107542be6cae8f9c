"""The buckets of hf-cache-sync: its layout and its settings, read and written. Pure.

    layout     keys of objects, and what keys mean
    documents  the manifests and refs that lie there
    settings   `.hf-cache-sync.yaml` and the variables beside it

What is ours lies below `_p2pcache/`, which hf-cache-sync never looks at: refs that say of which
repository they are, for its own names do not always tell (`layout`).
"""
