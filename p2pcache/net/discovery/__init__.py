"""Finds agents of our network: mDNS, a DNS name, configured addresses, the peers of last time."""
