"""Make this checkout ready to run: system packages, the virtual environment, tools of the tests.

    scripts/setup [dev|test|demo|bench]     default: dev
    scripts/setup --print-tools             the folders to put first on PATH for the tests

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
}
PEERS: dict[str, Missing] = {"aria2": _no_command("aria2c"), "curl": _no_command("curl")}

PROFILES: dict[str, dict[str, Missing]] = {
    "dev": BUILDING,
    "test": BUILDING | SERVING,
    "demo": BUILDING | SERVING,
    "bench": BUILDING | SERVING | PEERS,
}
TOOLS: dict[str, tuple[str, ...]] = {
    "dev": (),
    "test": ("olah", "go"),
    "demo": ("olah",),
    "bench": (),
}
# The commands of each tool that others may see: never its `python` or `pip`.
COMMANDS = {"olah": ("olah-cli",), "go": ("go",)}

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
    print(f"setup: {text}", flush=True)


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


def fingerprint(*files: Path) -> str:
    state = hashlib.sha256(f"{sys.version}\0{ROOT}\0".encode())
    for file in files:
        state.update(file.read_bytes() + b"\0")
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


def ensure_venv(venv: Path, pins: Path, *inputs: Path, editable: bool = False) -> None:
    mark = fingerprint(pins, *inputs)
    marker = venv / MARKER
    if not marker.exists() or marker.read_text().strip() != mark:
        make_venv(venv, pins, mark, editable=editable)


def tool_venv(name: str) -> Path:
    """Where the tool's environment is; the name changes with its pins, so checkouts can share."""
    pins = PINS / f"{name}.txt"
    state = hashlib.sha256(f"{sys.version}\0".encode() + pins.read_bytes()).hexdigest()
    return CACHE / f"{name}-{state[:12]}"


def ensure_tool(name: str) -> None:
    venv = tool_venv(name)
    with one_at_a_time(CACHE):
        if (venv / MARKER).exists() and (venv / MARKER).read_text().strip() == venv.name:
            return
        make_venv(venv, PINS / f"{name}.txt", venv.name, editable=False)
        (venv / "commands").mkdir()
        for command in COMMANDS[name]:
            (venv / "commands" / command).symlink_to(venv / "bin" / command)


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


def needs_go() -> bool:
    """Kubo needs a Go that is newer than Debian 12's; one on PATH that can build it is used."""
    found = shutil.which("go")
    if found is None:
        return True
    text = subprocess.run([found, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    parts = text.stdout.strip().removeprefix("go").split(".")
    return not (len(parts) >= 2 and parts[0] == "1" and parts[1].isdigit() and int(parts[1]) >= 26)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("profile", nargs="?", choices=tuple(PROFILES), default="dev")
    parser.add_argument("--print-tools", action="store_true", help="folders for PATH")
    args = parser.parse_args()
    if args.print_tools:
        names = [name for name in TOOLS["test"] if name != "go" or needs_go()]
        print(":".join([*(str(tool_venv(name) / "commands") for name in names), "/usr/sbin"]))
        return
    with one_at_a_time(ROOT):
        install_system_packages(PROFILES[args.profile])
        ensure_venv(VENV, ROOT / "constraints.txt", ROOT / "pyproject.toml", editable=True)
    for name in TOOLS[args.profile]:
        if name != "go" or needs_go():
            ensure_tool(name)


if __name__ == "__main__":
    main()
