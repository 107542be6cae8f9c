"""Preloads: what members wish, this agent's part in it, and who is how far."""
