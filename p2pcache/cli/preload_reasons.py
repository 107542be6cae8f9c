"""Why an agent has not got what is preloaded, and what to do about it: one line for each code."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pcache.agent.localapi.preloaded import PreloadLine

REASONS = {
    "denied": "it has no access to this, or its setting `preload.from` does not let this signer "
    "preload; give it a token or a `p2pcache grant`, or change that setting there",
    "not-found": "nobody that it may ask has this; it goes on trying",
    "unavailable": "nobody delivered it; it goes on trying, `p2pcache peers` there shows whom it "
    "can reach",
    "untrusted": "what it got did not verify; `p2pcache why` there says from whom",
    "disk-full": "it has no room; `p2pcache gc` there, or a larger `store.capacity`",
    "local-fault": "something is wrong with its machine; `p2pcache doctor` there says what",
    "interrupted": "it was stopped; it goes on when it runs again",
    "deadline": "the deadline came first; preload it again with a later --deadline",
    "foreground": "somebody waits for another pull there; it goes on after that",
    "leaving": "its copy is in the way of a pull there; it goes once enough others have one",
}


def reasons(lines: Iterable[PreloadLine]) -> list[str]:
    """What the codes of these lines mean, each once, in the order of the lines."""
    codes = [line["code"] for line in lines if line["code"] and line["state"] != "complete"]
    return [f"{code}: {REASONS[code]}" for code in dict.fromkeys(codes) if code in REASONS]
