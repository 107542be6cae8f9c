"""The IPFS gateways of an agent: trustless (blocks and CARs) and paths (files and folders).

https://specs.ipfs.tech/http-gateways/trustless-gateway/ and .../path-gateway/. What is served by
which rule, with its test: docs/ipfs.md.

request    what is asked for: pure
content    media types, names of downloads, ETags: pure
listing    a folder as a page: pure
reader     blocks and bytes in threads, in pieces
gateway    answers
"""
