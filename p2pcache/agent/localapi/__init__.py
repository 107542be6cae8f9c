"""The agent's local socket: how the CLI and other programs of this user talk to the agent.

Bottom up: `wire` (bytes to messages, pure), `exchange` (the client's side of a connection without
the socket), `calls` and `options` (typed arguments), `answers` and beside it `adopted`, `bundled`,
`origin_use`, `preloaded`, `receipt` (typed results), `connection` and `client` (synchronous, no
trio), `aclient` (trio), `embedded` (an agent for as long as a client lives), `listener` (the socket
file), `outbox` (a connection's bounded queue), `server` (connections and requests; the operations
are the agent's service). Clients import nothing of the server's, nothing here the store.
"""
