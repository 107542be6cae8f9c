"""An agent carries only the parts of libp2p that it uses. Each test is a process: imports stay."""

from __future__ import annotations

import subprocess
import sys

NETWORK = (
    "import p2pcache.net.host, p2pcache.net.dht.dht, p2pcache.net.dht.server, p2pcache.net.network"
)


def ask(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}"],
        check=False, capture_output=True, timeout=60, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_what_the_hollow_parts_would_import_is_not_loaded():
    seen = ask(
        f"{NETWORK}\nfrom p2pcache.net.lean_libp2p import SPARED\n"
        "print(sorted(set(SPARED) & set(sys.modules)))"
    )
    assert seen == "[]"


def test_the_stock_library_imports_every_part_or_its_name_can_go():
    seen = ask(
        f"import libp2p\n{NETWORK}\nfrom p2pcache.net.lean_libp2p import HOLLOW, SPARED\n"
        "print(sorted(set(HOLLOW + SPARED) - set(sys.modules)))"
    )
    assert seen == "[]"


def test_a_library_that_somebody_imported_before_stays_whole():
    assert ask(f"import libp2p.relay\n{NETWORK}\nprint(bool(libp2p.relay.__file__))") == "True"


def test_a_hollow_part_can_be_named_and_says_so_when_it_is_used():
    seen = ask(
        f"{NETWORK}\n"
        "from libp2p.transport.quic.stream import QUICStream\n"
        "assert not isinstance(1, QUICStream) and QUICStream.State\n"
        "try:\n    {}['x']\n"
        "except QUICStream:\n    pass\nexcept KeyError:\n    print('passed on')\n"
        "try:\n    QUICStream()\nexcept NotImplementedError as exc:\n    print(exc)"
    )
    told = "libp2p.transport.quic.stream.QUICStream is not loaded (p2pcache.net.lean_libp2p)"
    assert seen.splitlines() == ["passed on", told]
