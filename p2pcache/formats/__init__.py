"""Formats of other programs: read in place, and written so that they read it.

ollama.py     Ollama's store of models
bptr/         Baseten's pointer files, which truss-transfer downloads
"""
