"""The distributed table of who provides what, for agents that the member list does not reach."""

from p2pcache.net.dht.dht import Dht, DhtOptions, open_dht

__all__ = ["Dht", "DhtOptions", "open_dht"]
