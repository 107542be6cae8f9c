"""Files, directories and symlinks as `ipfs add` makes them, under a named profile or its options.

profile   what the options are, and the names of sets of them; `Root`, what has been made
files     a file of its bytes
layout    its tree, balanced
trickle   the other layout
folders   directories, sharded where they are large, symlinks, whole folders
"""

from p2pcache.content.dag.build.files import FileBuilder
from p2pcache.content.dag.build.folders import by_bytes, directory, symlink, tree
from p2pcache.content.dag.build.profile import PROFILES, Keep, Profile, Root

__all__ = [
    "PROFILES", "FileBuilder", "Keep", "Profile", "Root", "by_bytes", "directory", "symlink",
    "tree",
]  # fmt: skip
