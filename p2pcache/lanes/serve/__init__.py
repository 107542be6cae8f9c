"""The byte server: a process of threads that sends ranges of blobs to whoever holds a ticket.

Started by the agent as `python -m p2pcache.lanes.serve`; it decides nothing. What may be read by
whom, and where it lies, is told over its control socket, and it ends when that closes.

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
