"""Make this checkout ready to run: system packages, the virtual environment, tools of the tests.

    scripts/setup [dev|quick|test|demo|lab|bench] default: dev
    scripts/setup --tool olah-cli|go|node|libtorrent|truss-transfer|hf-cache-sync
                                                  print its path; install it first if missing

The environment is `.venv` in the checkout, not a shared cache: it holds an editable install of this
very checkout, editors find it there, and it goes when the checkout goes. Servers that only tests
and demo need get environments of their own under ${XDG_CACHE_HOME:-~/.cache}/p2pcache-tests, which
all checkouts share. Every package is pinned and its hash is checked (constraints.txt, pins/*.txt).

Only the standard library: this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PINS = ROOT / "scripts" / "pins"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "p2pcache-tests"
MARKER = "made-by-p2pcache-setup"  # holds the fingerprint of what was installed
BUILD_TOOLS = ("pip", "setuptools")  # first: the source archives are built with them

# Debian package -> whether the machine lacks what it brings.
Missing = Callable[[], bool]


def _no_command(*names: str) -> Missing:
    # Debian puts servers into /usr/sbin, which is not on every user's PATH.
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return lambda: not any(shutil.which(name, path=path) for name in names)


def _no_gmp() -> bool:
    return not any(Path("/usr/include").glob("gmp.h")) and not any(
        Path("/usr/include").glob("*-linux-gnu*/gmp.h")
    )


def _no_python_headers() -> bool:
    return not Path(sysconfig.get_path("include"), "Python.h").exists()


BUILDING: dict[str, Missing] = {
    # fastecdsa, which libp2p needs, comes as source only
    "gcc": _no_command("gcc", "cc"),
    "libc6-dev": lambda: not Path("/usr/include/stdio.h").exists(),
    "libgmp-dev": _no_gmp,
    "python3-dev": _no_python_headers,
    "python3-venv": lambda: importlib.util.find_spec("ensurepip") is None,
}
SERVING: dict[str, Missing] = {
    "git": _no_command("git"),
    "nginx-light": _no_command("nginx"),
    "openssl": _no_command("openssl"),
}
COMPILING: dict[str, Missing] = {"g++": _no_command("g++", "c++")}  # Ollama, for its tests
CABLING: dict[str, Missing] = {
    "iproute2": _no_command("ip"),  # network namespaces, tc
    "util-linux": _no_command("unshare"),  # for truss-transfer, which reads paths of the root
}
PEERS: dict[str, Missing] = {"aria2": _no_command("aria2c"), "curl": _no_command("curl")}

PROFILES: dict[str, dict[str, Missing]] = {
    "dev": BUILDING,
    "quick": BUILDING | SERVING,
    "test": BUILDING | SERVING | COMPILING | CABLING,
    "demo": BUILDING | SERVING,
    "lab": BUILDING | SERVING | CABLING,
    "bench": BUILDING | SERVING | PEERS,
}
TOOLS: dict[str, tuple[str, ...]] = {
    "dev": (),
    "quick": (),
    "test": (),  # tests/support/builds.py makes them, beside the first tests
    "demo": ("olah-cli",),
    "lab": (),
    "bench": (),
}
PINS_OF = {  # command -> pins/NAME.txt
    "olah-cli": "olah",
    "go": "go",
    "node": "node",
    "libtorrent": "libtorrent",  # no command of its own: the Python that can import it
    "truss-transfer": "truss",  # the same
    "hf-cache-sync": "hfcachesync",
}

# As root. A freshly installed nginx must neither start now nor at the next boot: the scripts run
# their own, on a loopback port. policy-rc.d is Debian's way to say "do not start services".
APT = """
set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f $policy' EXIT
  printf '#!/bin/sh\\nexit 101\\n' >$policy
  chmod 755 $policy
fi
apt-get update -qq
apt-get install -qq -y --no-install-recommends "$@" >/dev/null
case " $* " in
*" nginx-light "*) if [ -d /run/systemd/system ]; then systemctl disable --quiet nginx; fi ;;
esac
"""


def say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def fail(message: str, hint: str) -> SystemExit:
    print(f"error: {message}\nhint: {hint}", file=sys.stderr)
    return SystemExit(1)


def install_system_packages(wanted: dict[str, Missing]) -> None:
    packages = [name for name, missing in wanted.items() if missing()]
    if not packages:
        return
    by_hand = f"apt-get install {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise fail(
            f"this machine lacks what Debian calls {', '.join(packages)}",
            "install them with this system's package manager, then run the script again",
        )
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if root and (
        shutil.which("sudo") is None
        or subprocess.run([*root, "true"], capture_output=True, check=False).returncode != 0
    ):
        raise fail(
            f"system packages are missing: {', '.join(packages)}",
            f"as root run `{by_hand}`, then run the script again",
        )
    say(f"{by_hand} (the compiler builds fastecdsa; nginx is not started as a service)")
    done = subprocess.run([*root, "sh", "-c", APT, "sh", *packages], check=False)
    if done.returncode != 0:
        raise fail(f"`{by_hand}` failed with status {done.returncode}", "its output stands above")
    still = [name for name in packages if wanted[name]()]
    if still:
        raise fail(
            f"{', '.join(still)}: installed, but {sys.executable} does not see it",
            "use the system's own Python: PYTHON=/usr/bin/python3 scripts/setup",
        )


def fingerprint(pins: Path) -> str:
    """What `.venv` depends on; of pyproject.toml only what an install reads, not the lint rules."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    installed = [project["build-system"], project["project"], project["tool"]["setuptools"]]
    state = hashlib.sha256(f"{sys.version}\0{ROOT}\0{installed!r}\0".encode())
    state.update(pins.read_bytes())
    return state.hexdigest()


def pinned_entries(pins: Path, names: tuple[str, ...]) -> str:
    """The entries of `names` in a file of pins, with their hash lines."""
    chosen, keep = [], False
    for line in pins.read_text().splitlines():
        if not line.startswith(" "):
            keep = line.partition("==")[0] in names
        if keep:
            chosen.append(line)
    return "\n".join(chosen) + "\n"


def pip(venv: Path, *args: str) -> None:
    # --use-pep517 and no isolation: the archives are built with the pinned setuptools, not with
    # whatever setuptools is the newest today.
    command = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run(
        [*command, "install", *args],
        check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr)
        raise fail("pip could not install the pinned packages", "its output stands above")


def make_venv(venv: Path, pins: Path, mark: str, *, editable: bool) -> None:
    if venv.exists() and not (venv / MARKER).exists():
        raise fail(f"{venv} was not made by scripts/setup", "move it away, then run this again")
    began = time.monotonic()
    say(f"making {venv} from {pins.relative_to(ROOT)} (a minute or so)")
    shutil.rmtree(venv, ignore_errors=True)
    venv.mkdir(parents=True)
    (venv / MARKER).write_text("incomplete\n")
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as first:
        first.write(pinned_entries(pins, BUILD_TOOLS))
        first.flush()
        pip(venv, "--require-hashes", "-r", first.name)
    pip(venv, "--require-hashes", "--no-build-isolation", "--use-pep517", "-r", str(pins))
    if editable:
        pip(venv, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    (venv / MARKER).write_text(mark + "\n")
    say(f"{venv} is ready ({time.monotonic() - began:.0f} s)")


def is_made(venv: Path, mark: str) -> bool:
    marker = venv / MARKER
    return marker.exists() and marker.read_text().strip() == mark


def ensure_venv(venv: Path, pins: Path) -> None:
    mark = fingerprint(pins)
    if not is_made(venv, mark):
        make_venv(venv, pins, mark, editable=True)


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder itself: no lock file is left, and it ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def go_on_path() -> str | None:
    """Kubo needs a newer Go than Debian 12's; one on PATH that can build it is used."""
    found = shutil.which("go")
    if found is None:
        return None
    text = subprocess.run([found, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    parts = text.stdout.strip().removeprefix("go").split(".")
    new_enough = parts[:1] == ["1"] and parts[1:2] != [] and parts[1].isdigit()
    return found if new_enough and int(parts[1]) >= 26 else None


def ensure_tool(command: str) -> Path:
    """The command, installed from its pins when it is missing.

    The folder's name changes with the pins, so checkouts can share it. Beside `bin` there is a
    folder with this command alone: it can be put on PATH without bringing another `python` along.
    """
    if command == "go" and (found := go_on_path()) is not None:
        return Path(found)
    pins = PINS / f"{PINS_OF[command]}.txt"
    mark = hashlib.sha256(f"{sys.version}\0".encode() + pins.read_bytes()).hexdigest()
    venv = CACHE / f"{PINS_OF[command]}-{mark[:12]}"
    link = venv / "commands" / command
    place = venv / "bin" / "python" if command in ("libtorrent", "truss-transfer") else link
    if is_made(venv, mark) and place.exists():
        return place  # without the lock: others may be making another one
    with one_at_a_time(CACHE):
        if not is_made(venv, mark):
            make_venv(venv, pins, mark, editable=False)
        if place is link and not link.is_symlink():
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(venv / "bin" / command)
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("profile", nargs="?", choices=tuple(PROFILES), default="dev")
    parser.add_argument("--tool", choices=tuple(PINS_OF), help="install it, print its path")
    args = parser.parse_args()
    if args.tool is not None:
        print(ensure_tool(args.tool))
        return
    with one_at_a_time(ROOT):
        install_system_packages(PROFILES[args.profile])
        ensure_venv(VENV, ROOT / "constraints.txt")
    for command in TOOLS[args.profile]:
        ensure_tool(command)


if __name__ == "__main__":
    main()
