"""Adapters for where content is pushed to: what a place lacks, and how it gets that."""
