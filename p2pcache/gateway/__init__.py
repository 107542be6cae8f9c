"""What other programs speak to an agent on loopback: HTTP gateways over what it holds and can get.

    http          a small, bounded HTTP/1.1 server (h11 over trio); knows no content
    ranges        `Range:` of one representation
    ipfs/         the trustless and the path gateway of IPFS

A gateway gets what it shows as arguments (ports in `content.blocks`); `agent` starts it.
"""
