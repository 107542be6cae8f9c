"""Any DAG of IPFS, without I/O: what asks for blocks is a generator, whoever runs it brings them.

walk       `Need`, `Walk`, `Flow` and their drivers, sync and async
hashes     a block against its CID: sha2-256, sha2-512, blake3, identity
node       dag-pb: links and data
fsdata     UnixFS: what the data of a node mean
files      stat, offset reads, the leaves of a file
folders    entries of plain and sharded (HAMT) directories, one entry by its name
cbor       dag-cbor and dag-json with their links
links      the links of a block of any codec that we know
path       `root/a/b` to the block it means
traverse   the blocks of a CAR: block, entity (also a part of a file), all
build      files, directories and symlinks under a named profile
trickle    the other layout that `ipfs add` knows

What the blocks hold is never believed beyond their hash: only Untrusted comes out, besides NotFound
for a name that a folder lacks, UsageError where a folder is asked for as a file, and what `get`
raises.
"""
