"""Content: what things are called and what makes them true. Pure: no clock, no disk, no network.

digests    sha2-256 and git blob ids as multihashes; the streaming hasher
cid        CIDs: text at the edges, binary inside
refs       what a user types
names      the one check of every path from outside
patterns   which files of a listing are meant
ranges     half-open range sets
manifest   the immutable file list and its CID
unixfs     file and directory roots as Kubo makes them (unixfs-v1-2025)
dag        any DAG of IPFS: reading, paths, CAR traversal, writing under any profile
blockmap   the hashes of a blob's blocks, proven or attested
verify     the door: nothing else makes `Verified`
"""
