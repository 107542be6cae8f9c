"""Baseten's pointer files (bptr), as truss-transfer 0.0.44 writes and reads them.

All but `load` is pure.

pointers   what such a file holds
read       JSON or YAML to pointers
plan       from pointers to refs, digests and safe names
write      from what refs mean to a pointer file
"""
