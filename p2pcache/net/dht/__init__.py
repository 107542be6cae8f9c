"""The distributed table of who provides what, for agents that the member list does not reach."""

from p2pcache.net.dht.dht import LAN, Dht, DhtOptions, open_dht

__all__ = ["LAN", "Dht", "DhtOptions", "open_dht"]
