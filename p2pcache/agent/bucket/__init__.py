"""The buckets of hf-cache-sync ([formats.md]): what `p2pcache bucket` does.

operations  the calls of the local API
place       which bucket, whose login, which cache: the arguments of all of them
remote      what a bucket holds, and what a ref means there: read, and checked
source      a manifest as an origin of its files
pull        one repository out of a bucket into the cache, by the swarm of its commit
push        what a cache holds into a bucket: blobs, then manifests, then refs
plan        what a push has to send: pure
hashing     whether files are what their names say, before they go out
local       the cache of this machine: list, status, prune
watch       push whenever the cache has changed and is quiet again
doctor      the set-up, checked step by step
"""
