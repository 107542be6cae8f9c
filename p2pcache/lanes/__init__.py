"""Bulk bytes: the functions that run in worker processes. Neither trio nor libp2p is seen here.

| module    | what it is for                                                                   |
|-----------|----------------------------------------------------------------------------------|
| `orders`  | what the agent asks and what a worker reports (plain values that pickle)         |
| `fetch`   | `fetch(FetchOrder)`: one ranged GET into a partial blob, block by block          |
| `odometer` | what running requests have received, where the agent sees it at any moment     |
| `small`   | `fetch_small(orders, limits, threads)`: a batch of blobs of at most one block    |
| `inline`  | small files that a listing holds itself, for `small`                          |
| `bundle`  | `fetch_bundle(order, limits)`: many small blobs of one peer with one request     |
| `dag`     | `fetch_dag(order)`: a file of any UnixFS shape, by the blocks of its own DAG     |
| `follow`  | `follow(FollowOrder)`: the whole digest, in order, behind the writers            |
| `http`    | one GET: redirects, memory of the final URL, renewal                             |
| `pools`   | connections kept in the worker: TLS, pins, proxies, one place for every receive  |
| `tls`     | a client socket that receives ciphertext in large pieces                          |
| `pace`    | the watchdog (stall and floor) and the rate limit of one call                    |
| `faults`  | the table status or exception -> `Fault`, and text that is fit for users         |
| `receive` | the block loop: receive, hash, hand to the sink                                  |
| `sink`    | data, then map, then live byte                                                   |
| `parent`  | ends a worker whose agent is gone                                                |
| `serve/`  | the other end: the byte server that answers other agents' workers                 |
| `reach`   | how a reader addresses it                                                        |
| `tickets` | who may read what until when, checked without a database                         |
| `certificate` | an agent's ephemeral certificate, pinned by its fingerprint                  |

A byte's way: `pools` receives it, `http.Body` hands it out, `receive` hashes it, `sink` writes it.
"""
