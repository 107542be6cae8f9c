"""The daemon: the parts put together, the local API, and what pulls share with the network."""
