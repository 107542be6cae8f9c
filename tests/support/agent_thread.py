"""A scripted agent in a thread of its own, for tests of synchronous callers and of programs."""

import contextlib
import threading

import trio

from p2pcache import config
from p2pcache.agent.localapi.server import serve
from tests.support.scripted_service import ScriptedService


@contextlib.contextmanager
def running_agent(home, options=None):
    """Serve a ScriptedService on `home` until the block ends; yields the service."""
    service = ScriptedServiceOf()
    ready = threading.Event()

    async def main():
        path = config.socket_path(home)
        service.made = ScriptedService()
        async with trio.open_nursery() as nursery:
            service.token = trio.lowlevel.current_trio_token()
            service.scope = nursery.cancel_scope
            await nursery.start(lambda task_status: serve(
                path, service.made, options=options, task_status=task_status))  # fmt: skip
            ready.set()
            await service.made.stop.wait()
            nursery.cancel_scope.cancel()

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield service.made
    finally:
        with contextlib.suppress(trio.RunFinishedError):  # `shutdown` was one of the calls
            service.token.run_sync_soon(service.scope.cancel)
        thread.join(10)
        assert not thread.is_alive()


class ScriptedServiceOf:
    """What the thread hands over."""

    made = token = scope = None
