"""Container registries and Ollama's as one kind of origin (OCI distribution specification 1.1).

source.py     the adapter: what a ref lists, where its blobs are read
registry.py   the requests: manifests and who may read them, with their table of errors
pushing.py    the requests that fill a repository
options.py    where a registry's API is, and whose login it gets
access.py     one repository's access: anonymous, then a login or Ollama's key, renewed in time
challenge.py  what `WWW-Authenticate` asks for, and which realm may see a login: pure
signature.py  the requests that Ollama signs
manifest.py   manifests and indexes: pure, bounded, suspicious
platforms.py  which image of an index is meant: pure
layout.py     how the blobs of a manifest are named as files: pure
"""
