"""Registries, and Ollama's, as destinations.

image.py        what is pushed: a manifest and its blobs: pure but for reading small files
model.py        a model of Ollama's out of GGUF files on this disk
destination.py  what the registry lacks, and the order in which it gets that
upload.py       one blob in one session, which a crash does not end
"""
