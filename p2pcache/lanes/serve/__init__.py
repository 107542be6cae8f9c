"""The byte server: a process of threads that sends ranges of blobs to whoever holds a ticket.

Started by the agent as `python -m p2pcache.lanes.serve`; it decides nothing. What may be read by
whom, and where it lies, is told over its control socket, and it ends when that closes.

Measured: 1 GiB, tmpfs to tmpfs, read by 2 fetch workers in pieces of 16 MiB, 2 shared cores that
others used too; `probes/pair_server.py`, which does nothing else, in the same minutes:
  TLS    195-538 MB/s, 0.9-1.2 CPU-s/GB here and 2.1-2.5 in the workers
  probe  206-600       0.8-0.9                   2.1-2.3
  plain  386-865       0.2-0.4                   1.4-1.8
  probe  324-940       0.15-0.3                  1.6-2.3
Encrypting through a memory BIO, or in parts of 128 or 256 KiB, is no better. A mapping instead of
reads into a buffer: 0.77-0.80 instead of 0.80-0.85, and SIGBUS for a file that shrinks.
Small blobs (2-40 KB): 31-51 us each in a bundle, 310-450 us with a request each.

| module       | what it is for                                                              |
|--------------|-----------------------------------------------------------------------------|
| `options`    | every number of the process, with its reason                                |
| `control`    | messages between agent and byte server: length-prefixed msgpack             |
| `mirror`     | the agent's copy of all that, for a server that had to be started anew      |
| `table`      | which names a scope holds, where each blob lies, who is reading it now      |
| `http`       | a request's head to an `Ask`, or the refusal that it gets (pure)            |
| `connection` | one thread: handshake, requests, answers                                    |
| `send`       | open files, and the two ways out: `sendfile`, and `sendall` under TLS       |
| `growing`    | a range of a blob that is still arriving, block by block                    |
| `bundle`     | many small blobs in one body                                                |
| `crowd`      | who is connected: bounds, deadlines, counters                               |
| `trust`      | the TLS context and the certificates of readers                             |
| `server`     | listeners, and the messages put into effect                                 |
"""
