"""The Hugging Face cache of this machine: read in place, written so that its own library loads it.

    layout   names and paths of the cache, and where it is for a given environment
    read     what the cache holds: refs, snapshots, trees, blobs (confined to the cache)
    write    materialise: show verified files as a snapshot

The layout is that of huggingface_hub 1.33 and 2.4, with and without their shared blob store. A name
in this cache is a claim and no proof: huggingface_hub checks sizes only, so whoever adopts a blob
hashes it first. Its locks are not taken: they save it double downloads, and its correctness, like
ours, comes from renaming whole files.
"""
