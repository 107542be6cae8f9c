"""Runs every way of discovery."""
