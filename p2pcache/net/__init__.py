"""The network: who the other agents are and what they say. The only importer of libp2p."""
