"""Kubo's RPC: blocks, values in DAGs, CARs, pins, and the node around them, as Kubo tells them."""

from __future__ import annotations

import json
from typing import Any

from tests.support.kubo_and_ours import (
    BIG,
    HELLO,
    MIB,
    NOBODY_HAS,
    OLD_CLIENTS,
    random_bytes,
    same,
)
from tests.support.kubo_rpc import FILE, Server

pytestmark = OLD_CLIENTS


def test_blocks(servers):
    def scenario(server: Server):
        one, two = ("a", b"hello", FILE), ("b", b"other", FILE)
        for options in (
            "", "?pin=true", "?cid-codec=dag-pb", "?cid-codec=dag-cbor", "?format=v0",
            "?format=protobuf", "?format=raw", "?mhtype=sha2-512", "?mhtype=blake3",
            "?mhtype=sha2-256&mhlen=-1", "?cid-codec=nope", "?mhtype=nope",
        ):  # fmt: skip
            yield options, server.upload(f"block/put{options}", one, two).plain
        yield server.upload("block/put", ("a", bytes(2 * MIB), FILE)).plain
        yield server.upload("block/put", ("a", bytes(2 * MIB + 1), FILE)).plain
        yield server.post(f"block/get?arg={HELLO}").plain
        yield server.post(f"block/get?arg=/ipfs/{HELLO}").plain
        yield server.post(f"block/stat?arg={HELLO}").plain
        yield server.post(f"block/rm?arg={NOBODY_HAS}").plain
        yield server.post(f"block/rm?arg={NOBODY_HAS}&force=true").plain
        loose = server.upload("block/put", ("a", b"loose", FILE)).lines[0]["Key"]
        yield server.post(f"block/rm?arg={loose}").plain
        yield server.post(f"block/get?arg={loose}&offline=true").plain

    same(servers, scenario)


def test_values_in_dags(servers):
    def scenario(server: Server):
        value = {
            "a": 1, "l": {"/": HELLO}, "b": {"/": {"bytes": "aGk"}}, "list": [None, True, "ü<&>"],
            "deep": {"m": {"n": [1, 2, {"x": -5}]}}, "f": 1.5,
        }  # fmt: skip
        body = ("v", json.dumps(value).encode(), FILE)
        keys = []
        for options in (
            "", "?store-codec=dag-json", "?pin=true", "?hash=sha2-512",
            "?store-codec=dag-cbor&input-codec=dag-json", "?input-codec=nope", "?store-codec=nope",
        ):  # fmt: skip
            said = server.upload(f"dag/put{options}", body)
            yield options, said.plain
            keys += [row["Cid"]["/"] for row in said.lines if "Cid" in row]
        yield server.upload("dag/put?store-codec=raw&input-codec=raw", ("r", b"hello", FILE)).plain
        yield server.upload("dag/put", ("r", b"no JSON", FILE)).status
        for key in keys:
            for below in ("", "/l", "/a", "/b", "/list", "/list/2", "/deep/m/n/2/x"):
                yield below, server.post(f"dag/get?arg={key}{below}").plain
            yield server.post(f"dag/get?arg={key}/nothing").status
            yield server.post(f"dag/get?arg={key}&output-codec=dag-cbor").plain
            for below in ("", "/l", "/a", "/deep/m"):
                yield server.post(f"dag/resolve?arg={key}{below}").plain
        node = {
            "Data": {"/": {"bytes": "CAE"}},
            "Links": [{"Hash": {"/": HELLO}, "Name": "h", "Tsize": 5}],
        }
        part = ("n", json.dumps(node).encode(), FILE)
        folder = server.upload("dag/put?store-codec=dag-pb", part)
        yield folder.plain
        top = folder.lines[0]["Cid"]["/"]
        yield server.post(f"dag/get?arg={top}").plain
        yield server.post(f"dag/get?arg={top}/h").plain
        yield server.post(f"dag/get?arg={top}&output-codec=nope").plain
        yield server.post(f"dag/stat?arg={top}&progress=false").plain

    same(servers, scenario)


def test_cars_out_and_in(servers):
    def scenario(server: Server):
        parts = [("t/a.txt", b"hello", FILE), ("t/s/big", BIG, FILE), ("t/same", b"hello", FILE)]
        top = server.upload("add?pin=false", *parts).lines[-1]["Hash"]
        car = server.post(f"dag/export?arg={top}")
        yield car.plain
        part = ("c", car.body, FILE)
        yield server.upload("dag/import", part).plain
        yield server.upload("dag/import?stats=true&pin-roots=false", part).plain
        yield server.upload("dag/import?stats=true", part, part).plain
        yield server.post(f"pin/ls?arg={top}").plain
        yield server.post(f"pin/rm?arg={top}").plain
        yield server.upload("dag/import", ("c", b"no CAR", FILE)).status
        yield server.upload("dag/import", ("c", car.body[:-1], FILE)).status
        wrong = bytearray(car.body)
        wrong[-1] ^= 1
        yield server.upload("dag/import", ("c", bytes(wrong), FILE)).status
        yield server.post(f"dag/stat?arg={top}&progress=false").plain
        yield server.post(f"dag/export?arg={NOBODY_HAS}&offline=true").status

    same(servers, scenario)


def test_pins(servers):
    def scenario(server: Server):
        server.upload("block/put", ("a", b"hello", FILE))
        server.post(f"pin/rm?arg={HELLO}")
        parts = [("t/a.txt", b"hello", FILE), ("t/s/b", random_bytes(2000, 9), FILE)]
        top = server.upload("add?pin=false", *parts).lines[-1]["Hash"]
        yield server.post(f"pin/ls?arg={top}").plain
        yield server.post(f"pin/rm?arg={top}").plain
        yield server.post(f"pin/add?arg={top}").plain
        yield server.post(f"pin/ls?arg={top}").plain
        yield server.post(f"pin/ls?arg={top}/s").plain
        yield server.post(f"pin/ls?arg={top}/s&type=recursive").plain
        yield server.post(f"pin/ls?arg={top}&type=indirect").status
        for kind in ("all", "recursive", "direct", "indirect"):
            keys = server.post(f"pin/ls?type={kind}").lines[0].get("Keys", {})
            yield kind, keys.get(top), keys.get(HELLO)
        rows = server.post("pin/ls?stream=true&type=recursive").lines
        yield [row for row in rows if row["Cid"] == top]
        yield server.post("pin/ls?type=what").plain
        yield server.post(f"pin/rm?arg={top}&recursive=false").plain
        yield server.post(f"pin/add?arg={top}&recursive=false").plain
        yield server.post(f"pin/add?arg={HELLO}&recursive=False").plain
        yield server.post(f"pin/ls?arg={HELLO}&type=direct").plain
        yield server.post(f"pin/update?arg={HELLO}&arg={top}").plain
        yield server.post(f"pin/add?arg={HELLO}&recursive=True").plain
        yield server.post(f"pin/update?arg={HELLO}&arg={top}").plain
        other = server.upload("add?pin=false", ("o", b"other one", FILE)).lines[0]["Hash"]
        yield server.post(f"pin/update?arg={top}&arg={other}").plain
        yield server.post(f"pin/ls?arg={top}").plain
        yield server.post(f"pin/rm?arg={HELLO}&arg={other}").plain
        yield server.post(f"pin/add?arg={NOBODY_HAS}&offline=true").plain
        yield server.post("pin/add?arg=zzz").plain
        yield server.post(f"pin/update?arg={top}").status

    same(servers, scenario)


def test_shapes_of_what_differs_by_nature(servers):
    def shape(value: Any) -> Any:
        match value:
            case dict():
                return {key: shape(one) for key, one in value.items()}
            case list():
                return [shape(one) for one in value[:1]]
        return type(value).__name__

    def scenario(server: Server):
        for call in (
            "version", "id", "swarm/peers", "repo/stat", "stats/repo", "repo/version", "stats/bw",
            "repo/stat?size-only=true", f"routing/findprovs?arg={NOBODY_HAS}",
        ):  # fmt: skip
            said = server.post(call)
            rows = [{k: v for k, v in row.items() if k != "Addresses"} for row in said.lines]
            yield call, said.status, said.headers, shape(rows)
        for call in ("swarm/connect?arg=foo", "swarm/connect?arg=/ip4/127.0.0.1/tcp/1"):
            yield call, server.post(call).status

    same(servers, scenario)
