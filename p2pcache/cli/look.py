"""Look: what the agent does and did."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pcache.agent.localapi.client import connect
from p2pcache.cli.adopt import adopted_state
from p2pcache.cli.command import Command, counted, output_options
from p2pcache.cli.origins import origin_lines
from p2pcache.cli.output import Printer, printable
from p2pcache.cli.receipt import receipt_lines
from p2pcache.units import format_bytes, format_duration, format_progress, format_rate

if TYPE_CHECKING:
    from p2pcache.agent.localapi.answers import (
        IpfsStatus,
        LimitStatus,
        NetworkStatus,
        StatusAnswer,
    )


@click.command(
    cls=Command, short_help="Show the agent now.", example="p2pcache status --json", exits=(10, 11)
)
@click.option("--origins", is_flag=True, help="What each origin gave, to whom, at what cost.")
@click.option("--month", metavar="YYYY-MM", help="Of an earlier month; with --origins.")
@output_options
def status(printer: Printer, *, origins: bool, month: str | None) -> None:
    """Show the running agent: its store, pulls, clients, network and gateways. Starts none.

    With --origins: the budget of each origin, what the network fetched of it this month and which
    agent how much, who asks it now, and who was told to wait; how many copies of its files left it,
    what failed, what was sent there, and the money at the price of `origins.prices`.
    """
    if month is not None and not origins:
        raise click.UsageError("--month is for --origins.")
    with connect() as agent:
        if origins:
            rows = agent.origins(month)
            printer.show("origins", {"origins": rows}, origin_lines(rows))
        else:
            answer = agent.status()
            printer.show("status", answer, status_lines(answer))


def status_lines(answer: StatusAnswer) -> list[str]:
    """The agent's state for people."""
    store = answer["store"]
    used, capacity = store.get("used_bytes", 0), store.get("capacity_bytes")
    room = format_progress(used, capacity) if capacity else format_bytes(used)
    lines = [
        f"agent    {answer['version']}, pid {answer['pid']}, "
        f"up {format_duration(answer['uptime_s'])}, {format_bytes(answer['rss_bytes'])} of memory",
        f"home     {answer['home']}",
        f"store    {room} in {counted(store.get('blobs', 0), 'blob')}, "
        f"{store.get('partials', 0)} partial",
        *([f"         {store['index_lost']}"] if store.get("index_lost") else []),
        f"clients  {answer['clients']}",
        f"pulls    {len(answer['pulls'])}",
    ]
    for pull in answer["pulls"]:
        done, total = pull.get("done_bytes", 0), pull.get("total_bytes", 0)
        lines.append(f"  {pull.get('ref', '?')}  {format_progress(done, total)}")
    lines += [f"adopted  {a['folder']}  {adopted_state(a)}" for a in answer.get("adopted", [])]
    lines += _limit_lines(answer.get("limits"))
    lines += _network_lines(answer.get("network"))
    lines += _ipfs_lines(answer.get("ipfs"))
    return [printable(line) for line in lines]


def _limit_lines(limits: LimitStatus | None) -> list[str]:
    """Nothing where there is no limit at any time."""
    if limits is None:
        return []
    up, down = limits["up_bytes_per_s"], limits["down_bytes_per_s"]
    if up is None and down is None and not limits["by_the_hour"]:
        return []
    shown = [
        f"{name} {'no limit' if rate is None else format_rate(rate)}"
        for name, rate in (("up", up), ("down", down))
    ]
    return [f"limits   {', '.join(shown)}{' at this hour' * limits['by_the_hour']}"]


def _ipfs_lines(ipfs: IpfsStatus | None) -> list[str]:
    if ipfs is None:
        return []
    found = [f"{name} {url}" for name in ("gateway", "rpc") if (url := ipfs.get(name))]
    if ipfs.get("bitswap") is not None:
        found.append("bitswap")
    if ipfs.get("waits"):
        found.append("bitswap waits for a network")
    if ipfs["why"]:
        found.append(f"off: {ipfs['why']}")
    lines = [f"ipfs     {', '.join(found)}"] if found else []
    public = ipfs.get("public")
    if public is not None:
        how = public["why"] or counted(public.get("peers", 0), "peer")
        shared = f", {counted(public['published'], 'root')} published" * (public["published"] > 0)
        lines.append(f"public   {public['mode']}, {how}{shared}")
    return lines


def _network_lines(network: NetworkStatus | None) -> list[str]:
    if network is None:  # an older agent
        return []
    if network["state"] != "on":
        return [f"network  {network['state']}" + f": {network['why']}" * bool(network["why"])]
    dht, lanes = network.get("dht"), network.get("lanes")
    others = counted(network.get("members", 0), "other agent")
    lines = [
        f"network  {network.get('network', '?')}, {others}",
        f"peer     {network.get('peer', '?')}",
        *(f"address  {address.partition('/p2p/')[0]}" for address in network.get("addresses", [])),
    ]
    if lanes is not None:
        limit = lanes["limit_up_bytes_per_s"]
        sent = lanes["sent_bytes"]
        lines.append(
            f"lanes    port {lanes['port']}, {'TLS' if lanes['tls'] else 'plain'}, "
            f"{'?' if sent is None else format_bytes(sent)} sent"
            + (f", at most {format_rate(limit)}" if limit else "")
        )
    if dht is None:
        lines.append("dht      off")
    else:
        names, servers = dht.get("provided", 0), dht.get("servers", 0)
        lines.append(f"dht      {counted(names, 'name')} announced, {counted(servers, 'server')}")
    return lines


@click.command(
    cls=Command,
    short_help="Explain a pull: sources, times, bound.",
    example="p2pcache why last",
    exits=(10, 11),
)
@click.argument("ref", default="last")
@output_options
def why(ref: str, printer: Printer) -> None:
    """Print the receipt of REF's last pull, or of the last one of all.

    Which sources were tried and why each was left, bytes and time per source, retries, and how far
    from the bound it was.
    """
    with connect(embed=True) as agent:
        receipt = agent.why(ref)
    printer.show("receipt", receipt, receipt_lines(receipt))
