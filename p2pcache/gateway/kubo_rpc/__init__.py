"""The part of Kubo's RPC that its clients use, over blocks of ours. What each call takes is in
docs/ipfs.md.

api         who may call, the table of calls
query       arguments and options as clients send them
answers     JSON, lines, bytes and errors in Kubo's shape
multipart   bodies to files, folders and symlinks as they arrive
call        one call, and the ports that calls stand on
paths       `/ipfs/<cid>/a/b` to a block
add         add                     read    cat, get, ls, refs, resolve (tar: what `get` writes)
block       block/...               dag     dag/...
pin         pin/...                 files   files/... (mfs: the tree that they change)
node        id, version, swarm, routing, repo, stats
"""
