"""Bitswap 1.1 and 1.2 with peers that speak nothing else (Kubo, Helia): serve and fetch blocks."""
