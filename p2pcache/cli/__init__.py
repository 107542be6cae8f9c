"""The command line. It talks to the agent through `agent.localapi` and imports nothing heavy.

`main` (entry point, first screen, errors to exit codes), `command` (help with example and exit
codes), `output` (the one Printer), `progress` (the progress line), `receipt` (what `why` prints),
and the commands by group: `get`, `keep`, `share`, `look`, `fix`, `agent`.
"""
