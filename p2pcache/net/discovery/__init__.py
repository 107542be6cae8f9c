"""Finds agents of our network: mDNS, a DNS name, configured addresses, the peers of last time."""

from p2pcache.net.discovery.discovery import DiscoveryOptions, discover
from p2pcache.net.discovery.found import Found, How
from p2pcache.net.discovery.peerbook import PeerBook

__all__ = ["DiscoveryOptions", "Found", "How", "PeerBook", "discover"]
