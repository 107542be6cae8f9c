"""The network: who the other agents are and what they say. The only importer of libp2p.

identity.py     our Ed25519 key        network_key.py  the key that the network shares
invite.py       both ends of a token   secret_file.py  how a key lies on disk
address.py      multiaddr text         port.py         what the rest of `net` needs of a host
host.py         the host over libp2p: links, streams, shutdown
dialer.py       several addresses, short deadlines     listener.py   ports and their limits
tcp.py          one TCP connection     handshake.py    from there to a proven, muxed connection
stream.py       one conversation       swarm.py        libp2p's swarm without what harms us
public.py    a second host, in the public IPFS network
frames.py       noise and yamux, many frames at a time
private_connection.py  the cipher of private networks
py_libp2p_fixes.py   every patch of libp2p, with the defect and the version
lean_libp2p.py       the parts of libp2p that are not loaded
"""

from p2pcache.net import lean_libp2p

lean_libp2p.install()
