"""An agent of the product with one fault in it: what it tells other agents is not true.

`python -m tests.support.bad_agent` is `python -m p2pcache.agent` whose `Sharing` (what others ask
of it) is one of the classes below, by BAD_AGENT_FAULT. Everything else is the product. Imports are
inside `main`: workers import this module again.
"""

from __future__ import annotations

import os
import sys

BLOCK_BYTES = 1 << 20


def main() -> int:
    """Run it. Returns the exit code."""
    from p2pcache.agent import __main__ as product
    from p2pcache.agent import network
    from p2pcache.content.cid import parse_cid
    from p2pcache.content.signed import MAX_PIECE_BLOCKS, sign_attestation, sign_resolution
    from p2pcache.errors import NotFound
    from p2pcache.net.shelf import BlockMap, Holding, Pass

    size = int(os.environ.get("BAD_AGENT_SIZE", "0"))
    truth = network.Sharing

    class ForgedWords(truth):
        """Good bytes, and signed block maps that are not theirs."""

        async def block_map(self, peer, name, first, count):
            wrong, piece = [], MAX_PIECE_BLOCKS
            for start in range(first, first + count, piece):
                hashes = b"\xee" * 32 * min(piece, first + count - start)
                at = start * BLOCK_BYTES
                wrong.append(sign_attestation(self._signer, name, size, at, hashes))
            return BlockMap(size, first, None, tuple(wrong))

    class ForgedMap(truth):
        """Good bytes, and a plain block map that is not theirs."""

        async def block_map(self, peer, name, first, count):
            return BlockMap(size, first, b"\xee" * 32 * count)

    class Boaster(truth):
        """Says that it holds all of what it is asked for, and gives tickets for it."""

        async def holding(self, peer, manifest, names):
            return [Holding(name, size, None) for name in names]

        async def ticket(self, peer, scope, proof):
            try:
                return await super().ticket(peer, scope, proof)
            except NotFound:
                binding = await self._admit(peer)
                token = self._server.issue(peer, scope, binding, 60.0)
                return Pass(token.encode(), 60.0)

    class WrongSize(truth):
        """Says another size of everything it holds."""

        async def holding(self, peer, manifest, names):
            held = await super().holding(peer, manifest, names)
            return [Holding(one.name, one.size + 1, one.blocks) for one in held]

    class LyingName(truth):
        """Says that every ref means BAD_AGENT_MANIFEST."""

        async def resolutions(self, peer, canonical):
            return [self._lie(canonical)]

        def _lie(self, canonical):
            return sign_resolution(
                self._signer, canonical=canonical,
                manifest=parse_cid(os.environ["BAD_AGENT_MANIFEST"]), immutable="0" * 40,
                source="hf", endpoint="https://huggingface.co", mutable=True, restricted=False,
                resolved_at=self._now(),
            )  # fmt: skip

    class ForgedName(LyingName):
        """The same, in the name of BAD_AGENT_SIGNER."""

        async def resolutions(self, peer, canonical):
            from dataclasses import replace

            from p2pcache.content.peerid import parse_peer_id

            signer = parse_peer_id(os.environ["BAD_AGENT_SIGNER"])
            return [replace(self._lie(canonical), signer=signer)]

    class NoProof(truth):
        """Answers challenges with bytes that it never fetched."""

        async def prove(self, peer, scope, challenge):
            return os.urandom(32)

    faults = [ForgedWords, ForgedMap, Boaster, WrongSize, LyingName, ForgedName, NoProof]
    network.Sharing = {fault.__name__: fault for fault in faults}[os.environ["BAD_AGENT_FAULT"]]
    return product.main()


if __name__ == "__main__":
    sys.exit(main())
