"""Folders of others, read in place (docs/adopt.md).

look.py        which files of a folder are taken, and which are left out
plan.py        what is to be hashed and what forgotten, and in which batches (pure)
adopter.py     the task: looks, hashes, forgets, looks again
operations.py  the calls `adopt`, `adopted` and `unadopt`
"""
