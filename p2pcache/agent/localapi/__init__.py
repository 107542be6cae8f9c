"""The agent's local socket: how the CLI and other programs of this user talk to the agent.

Bottom up: `wire` (bytes to messages, pure), `exchange` (the client's side of a connection without
the socket), `calls` and `answers` (typed arguments and results), `client` (synchronous, no trio),
`aclient` (trio), `embedded` (an agent for as long as a client lives), `listener` (the socket file),
`outbox` (a connection's bounded queue), `server` (connections and requests; the operations are the
agent's service). Clients import nothing of the server's, and nothing here imports the store.
"""
