"""From first use to last: loops, threads, forks, generators left alone, and closing at any time."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tokfluence_async import (
    ClosedError,
    Outcome,
    Sandbox,
    Throttle,
    TokfluenceClient,
    TokfluenceError,
)
from tokfluence_async._sandbox.ledger import ANALYZE, COMMENTS, POST
from tokfluence_async._throttle import stores
from tokfluence_async._throttle.store import Ask, Done, Store
from tokfluence_async.testing import VirtualLoop

from .conftest import POST_ID, TOKEN, check_money, ids, rig


def outcome_stream(client: TokfluenceClient, name: str, source: Any) -> AsyncIterator[Outcome[Any]]:
    calls: dict[str, Callable[[Any], AsyncIterator[Outcome[Any]]]] = {
        "get_many": client.posts.get_many,
        "analyze_iter": client.posts.analyze_iter,
        "resolve": client.posts.resolve,
    }
    return calls[name](source)


BULK = ["get_many", "analyze_iter", "resolve"]


# --- opening and closing --------------------------------------------------------------------------


async def test_without_async_with_connections_open_on_first_use() -> None:
    """A constructor touches no loop (trap 38); `aclose` leaves nothing behind, and may be called
    again."""
    before = asyncio.all_tasks()
    async with Sandbox(token=TOKEN) as sandbox:
        client = await asyncio.get_running_loop().run_in_executor(
            None, lambda: TokfluenceClient(TOKEN, base_url=sandbox.url)
        )
        await asyncio.sleep(0)
        assert sandbox.open_connections == 0
        await client.posts.get(POST_ID)
        assert sandbox.open_connections == 1

        for _ in range(3):
            await client.aclose()
        await asyncio.sleep(0.01)

        assert sandbox.open_connections == 0
    assert asyncio.all_tasks() == before


async def test_a_copy_closed_leaves_its_parent_open() -> None:
    """Trap 5: `async with client.with_options(...)` is natural to write, and must not take the pool
    away."""
    async with rig() as (sandbox, client):
        await client.posts.get(POST_ID)
        async with client.with_options(timeout=5) as copy:
            await copy.posts.get(POST_ID)
        await client.with_options(max_retries=0).aclose()

        await client.posts.get(POST_ID)

        assert sandbox.open_connections == 1
        assert [entry.connection for entry in sandbox.requests] == [0, 1, 2]


@pytest.mark.parametrize("call", ["get", "comments", "request", "analyze", *BULK])
async def test_use_after_close_is_a_clear_error(call: str) -> None:
    """Not a hang, not an outcome that blames the network, and no warning about what was not
    awaited."""
    async with rig() as (sandbox, client):
        started = client.posts.comments(POST_ID)
        await anext(started)
        await client.aclose()
        calls: dict[str, Callable[[], Any]] = {
            "get": lambda: client.posts.get(POST_ID),
            "comments": lambda: anext(client.posts.comments(POST_ID)),
            "request": lambda: client.request("GET", "/v1/creators"),
            "analyze": lambda: client.posts.analyze([POST_ID]),
            **{
                name: lambda name=name: anext(outcome_stream(client, name, ids(3))) for name in BULK
            },
        }
        before = sandbox.requests_received

        with pytest.raises(RuntimeError, match="closed"):
            await calls[call]()
        with pytest.raises(RuntimeError, match="closed"):
            async with client:
                pass
        await started.aclose()
        gc.collect()

        assert sandbox.requests_received == before


@pytest.mark.parametrize(
    "scene",
    ["at work", "in the throttle", "in line for a place", "in a backoff", "at a closed gate"],
)
async def test_closing_ends_calls_in_flight_with_a_clear_error(scene: str) -> None:
    """They end at once, whatever they were waiting for, and say why; nothing is left running and
    nothing hangs."""
    before = asyncio.all_tasks()
    async with Sandbox(token=TOKEN) as sandbox:
        throttle = Throttle(1, 60, burst=1) if scene == "in the throttle" else None
        places = 1 if scene == "in line for a place" else 10
        client = TokfluenceClient(
            TOKEN, base_url=sandbox.url, throttle=throttle, max_concurrency=places
        )
        if scene in ("at work", "in line for a place"):
            sandbox.latency = 1000.0
        elif scene == "in a backoff":
            sandbox.answer(status=503, times=None, headers={"Retry-After": "100"})
        elif scene == "at a closed gate":
            sandbox.rate_limit(times=None, retry_after=100)
        calls = [asyncio.create_task(client.posts.get(post_id)) for post_id in ids(4)]
        calls.append(asyncio.create_task(client.posts.analyze(ids(2))))
        source = client.posts.resolve(ids(5))
        calls.append(asyncio.ensure_future(anext(source)))
        pages = client.posts.comments(POST_ID, prefetch=2)
        calls.append(asyncio.ensure_future(anext(pages)))
        await asyncio.sleep(0.7)
        began = asyncio.get_running_loop().time()

        await client.aclose()
        results = await asyncio.gather(*calls, return_exceptions=True)

        assert asyncio.get_running_loop().time() - began < 5
        for result in results:
            if isinstance(result, BaseException):
                assert isinstance(result, RuntimeError)
                assert "closed" in str(result)
            else:
                assert scene == "in the throttle"
        await source.aclose()
        await pages.aclose()
        assert client.usage.credits_reserved == 0
        assert client.usage.credits_spent >= sandbox.credits_spent
    assert asyncio.all_tasks() == before


async def test_closing_from_inside_a_callback_and_twice_at_once() -> None:
    """Two closers and a consumer at once: all return."""
    async with rig() as (_, client):
        source = client.posts.resolve(ids(50))
        await anext(source)
        async with asyncio.timeout(10):
            await asyncio.gather(client.aclose(), client.aclose(), source.aclose())


async def test_closing_that_is_cancelled_twice_closes_all_the_same() -> None:
    """What is waited for while being cancelled is waited for to its end."""
    async with rig() as (sandbox, client):
        source = client.posts.resolve(ids(50))
        await anext(source)
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with suppress(ClosedError):
            await source.aclose()
        await asyncio.sleep(0.01)

        assert sandbox.open_connections == 0
        assert client.usage.credits_reserved == 0


class WatchedStore:
    """A shared throttle's store that keeps what it was asked."""

    patience = 0.0

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.asks: list[Ask] = []
        self.closed = 0

    def request(
        self, ask: Ask, loop: asyncio.AbstractEventLoop, now: Callable[[], float], done: Done
    ) -> None:
        self.asks.append(ask)
        self.inner.request(ask, loop, now, done)

    async def aclose(self) -> None:
        self.closed += 1
        await self.inner.aclose()


@pytest.mark.parametrize("again", [0, 1, 3])
async def test_closing_that_is_cancelled_gives_shared_slots_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: int
) -> None:
    """While it ends a job whose source takes its time to close; a second `aclose` has nothing left
    to do."""
    real, opened = stores.open_store, list[WatchedStore]()

    def open_store(shared: str, clock: str | None) -> Store:
        opened.append(WatchedStore(real(shared, clock)))
        return opened[-1]

    monkeypatch.setattr(stores, "open_store", open_store)
    source_closed = False

    async def inputs() -> AsyncIterator[str]:
        nonlocal source_closed
        try:
            for post_id in ids(500):
                yield post_id
        finally:
            await asyncio.sleep(5)
            source_closed = True

    async with rig({"throttle": Throttle(shared=tmp_path / "budget")}) as (sandbox, client):
        job = asyncio.create_task(consume(client.posts.get_many(inputs())))
        await asyncio.sleep(3)
        closing = asyncio.create_task(client.aclose())
        for _ in range(1 + again):
            await asyncio.sleep(0.1)
            closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing

        (store,) = opened
        assert source_closed
        assert store.asks[-1].leaving
        assert store.closed == 1
        with pytest.raises(ClosedError):
            await job
        await client.aclose()
        await asyncio.sleep(100)
        assert store.asks[-1].leaving
        assert sandbox.open_connections == 0


# --- generators -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["break", "aclose", "another task", "collected", "error", "cancelled"]
)
@pytest.mark.parametrize("name", [*BULK, "comments", "comment_pages"])
async def test_a_generator_left_early_leaves_nothing(name: str, how: str) -> None:
    """PEP 789 and trap 20: whichever way it ends, its background work ends with it, and the client
    goes on."""
    async with rig(
        {"max_concurrency": 2, "analyze_concurrency": 1}, comments_per_post=2000, indexed=0.5
    ) as (
        sandbox,
        client,
    ):
        sandbox.index(POST_ID)
        await client.posts.get(POST_ID)
        tasks = asyncio.all_tasks()

        def make() -> Any:
            if name in BULK:
                return outcome_stream(client, name, ids(400))
            return getattr(client.posts, name)(POST_ID, limit=10, prefetch=5)

        source = make()
        for _ in range(25 if name == "comments" else 5):
            await anext(source)
        if how == "break":
            async for _ in source:
                break
            await source.aclose()
        elif how == "aclose":
            await source.aclose()
        elif how == "another task":
            await asyncio.create_task(source.aclose())
        elif how == "collected":
            del source
            gc.collect()
        elif how == "error":
            with pytest.raises(ZeroDivisionError):
                await source.athrow(ZeroDivisionError)
        elif how == "cancelled":
            reader = asyncio.create_task(consume(source))
            await asyncio.sleep(0.3)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            await source.aclose()
        await asyncio.sleep(
            100
        )  # the sandbox finishes what it was at; longer than its keep-alive, so its own tasks go

        assert asyncio.all_tasks() <= tasks
        assert client.usage.credits_reserved == 0
        assert client.usage.credits_spent >= sandbox.credits_spent
        async with asyncio.timeout(100):
            await client.posts.get(POST_ID)


async def consume(source: AsyncIterator[Any]) -> None:
    async for _ in source:
        pass


@pytest.mark.parametrize("name", BULK)
async def test_a_slow_consumer_slows_the_reading_of_its_input(name: str) -> None:
    """Trap 21: a million inputs are not read ahead of who reads the results; what is ahead has a
    bound."""
    pulled = 0

    def source() -> Iterator[str]:
        nonlocal pulled
        for post_id in ids(100_000):
            pulled += 1
            yield post_id

    async def slowly() -> AsyncIterator[str]:
        for post_id in source():
            yield post_id

    for inputs in (source(), slowly()):
        pulled = 0
        async with rig(
            {"throttle": Throttle(None, None)}, per_ip=None, per_key=None, seconds_per_url=0.0
        ) as (
            _,
            client,
        ):
            stream = outcome_stream(client, name, inputs)
            for _ in range(10):
                await anext(stream)
            await asyncio.sleep(10_000)
            ahead = pulled
            await asyncio.sleep(10_000)

            assert pulled == ahead < 1500
            await stream.aclose()


async def test_pages_are_not_bought_ahead_of_a_slow_reader() -> None:
    """With `prefetch=0` none; else never more than were read."""
    for prefetch in (0, 4, 50):
        async with rig(comments_per_post=5000) as (sandbox, client):
            pages = client.posts.comment_pages(POST_ID, limit=10, prefetch=prefetch)
            for read in range(1, 8):
                await anext(pages)
                await asyncio.sleep(50)
                assert sandbox.requests_received - read <= min(read, prefetch)
            await pages.aclose()
            check_money(sandbox, client)


async def test_an_input_that_fails_ends_the_call_with_its_error() -> None:
    """What was given before it stands, and the input's own generator is closed."""
    closed = []

    async def inputs() -> AsyncIterator[str]:
        try:
            for post_id in ids(7):
                yield post_id
            raise OSError("the file is on a stick that was pulled")
        finally:
            closed.append(True)

    async with rig() as (sandbox, client):
        stream = client.posts.get_many(inputs())
        got = [await anext(stream) for _ in range(7)]
        with pytest.raises(OSError, match="stick"):
            await anext(stream)

        assert sorted(outcome.unwrap().post_id for outcome in got) == ids(7)
        assert closed == [True]
        check_money(sandbox, client)


# --- loops, threads, processes --------------------------------------------------------------------


@pytest.mark.real_time
def test_one_client_in_two_loops_one_after_another() -> None:
    """Trap 6: `asyncio.run` twice, as scripts and notebooks do, with one client and one
    throttle."""
    holder: list[TokfluenceClient] = []

    async def main() -> int:
        async with Sandbox(token=TOKEN, seconds_per_url=0.0) as sandbox:
            if not holder:
                holder.append(TokfluenceClient(TOKEN, base_url=sandbox.url))
            client = holder[0]
            client._engine.origin, client._engine._base_url = (
                sandbox.url,
                sandbox.url,
            )  # the sandbox has moved
            await asyncio.gather(*(client.posts.get(post_id) for post_id in ids(5)))
            (await client.posts.analyze(ids(3, start=50))).raise_for_errors()
            async for _ in client.posts.comments(POST_ID, prefetch=2):
                break
            return sandbox.requests_received

    loops: list[Any] = [asyncio.new_event_loop, VirtualLoop, asyncio.new_event_loop]
    total = 0
    for factory in loops:
        with asyncio.Runner(loop_factory=factory) as runner:
            total += runner.run(main())
            assert holder[0].usage.requests == total

    asyncio.run(holder[0].aclose())


@pytest.mark.real_time
def test_one_client_in_two_threads_at_once() -> None:
    """Each loop has its own connections and places; counts, throttle and budget are shared and lose
    nothing."""
    failures: list[BaseException] = []
    with asyncio.Runner() as runner:
        sandbox = Sandbox(token=TOKEN, per_ip=None, per_key=None)
        started = threading.Event()
        stop = asyncio.Event()

        async def serve() -> None:
            async with sandbox:
                started.set()
                await stop.wait()

        server = threading.Thread(target=lambda: runner.run(serve()))
        server.start()
        started.wait(10)
        client = TokfluenceClient(TOKEN, base_url=sandbox.url, throttle=Throttle(None, None))

        def use(start: int) -> None:
            async def main() -> None:
                for _ in range(5):
                    await asyncio.gather(*(client.posts.get(post_id) for post_id in ids(20, start)))
                    async for outcome in client.posts.get_many(ids(20, start)):
                        outcome.unwrap()

            try:
                asyncio.run(main())
            except BaseException as error:
                failures.append(error)

        users = [threading.Thread(target=use, args=(1000 * i,)) for i in range(4)]
        for user in users:
            user.start()
        for user in users:
            user.join(60)
        received, spent = sandbox.requests_received, sandbox.credits_spent
        usage = client.usage
        asyncio.run(client.aclose())
        runner.get_loop().call_soon_threadsafe(stop.set)
        server.join(10)

    assert failures == []
    assert (usage.requests, usage.credits_spent) == (received, spent) == (800, 800)


def run_script(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own, where every warning is an error and asyncio's debug mode
    is on."""
    head = """
        import asyncio, gc, logging, os, sys, socket, threading
        # Debug mode warns of slow turns; this machine may be busy.
        logging.getLogger("asyncio").setLevel(logging.ERROR)
        from tokfluence_async import Sandbox, TokfluenceClient
        POST_ID = "7234567890123456789"
        IDS = [str(7234567890123456789 + i) for i in range(50)]
        """
    return subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-W",
            "error",
            *options,
            "-c",
            textwrap.dedent(head) + textwrap.dedent(script),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


FORGOTTEN = {
    "never closed": """
        async def main():
            async with Sandbox() as sandbox:
                client = TokfluenceClient(sandbox.token, base_url=sandbox.url)
                await asyncio.gather(*(client.posts.get(i) for i in IDS[:5]))
        asyncio.run(main())
        """,
    "never closed, global": """
        async def main():
            global client
            async with Sandbox() as sandbox:
                client = TokfluenceClient(sandbox.token, base_url=sandbox.url)
                await client.posts.get(POST_ID)
        asyncio.run(main())
        """,
    "collected in its loop": """
        async def main():
            async with Sandbox() as sandbox:
                client = TokfluenceClient(sandbox.token, base_url=sandbox.url)
                await client.posts.get(POST_ID)
                del client
                gc.collect()
                for _ in range(1000):  # turns of the loop, for both sides to notice
                    await asyncio.sleep(0)
                print(sandbox.open_connections)
        asyncio.run(main())
        """,
    "collected after its loop": """
        async def main():
            global client
            sandbox = Sandbox()
            await sandbox.start()
            client = TokfluenceClient(sandbox.token, base_url=sandbox.url)
            await client.posts.get(POST_ID)
            await sandbox.aclose()
        asyncio.run(main())
        del client
        gc.collect()
        """,
    "a server that outlives the loop": """
        ready, stop = threading.Event(), threading.Event()
        def serve():
            async def main():
                async with Sandbox() as sandbox:
                    globals()["sandbox"] = sandbox
                    ready.set()
                    while not stop.is_set():
                        await asyncio.sleep(0.005)
            asyncio.run(main())
        thread = threading.Thread(target=serve); thread.start(); ready.wait()
        client = TokfluenceClient(sandbox.token, base_url=sandbox.url)
        for _ in range(3):
            asyncio.run(client.posts.get(POST_ID))
        del client
        gc.collect()
        stop.set(); thread.join()
        """,
    "an abandoned generator": """
        async def main():
            global pages, many
            async with Sandbox() as sandbox:
                client = TokfluenceClient(sandbox.token, base_url=sandbox.url)
                pages = client.posts.comment_pages(POST_ID, limit=5, prefetch=3)
                many = client.posts.resolve(IDS)
                await anext(pages); await anext(pages); await anext(many)
        asyncio.run(main())
        """,
    "a generator that was never started": """
        async def main():
            async with Sandbox() as sandbox:
                client = TokfluenceClient(sandbox.token, base_url=sandbox.url)
                client.posts.resolve(IDS); client.posts.comments(POST_ID)
                await client.aclose()
        asyncio.run(main())
        """,
    "a generator dropped in a loop that ends": """
        async def main():
            async with Sandbox() as sandbox:
                client = TokfluenceClient(sandbox.token, base_url=sandbox.url)
                async for _ in client.posts.get_many(IDS):
                    break
        asyncio.run(main())
        """,
    "Ctrl-C": """
        import signal
        async def main():
            async with Sandbox(latency=100) as sandbox:
                async with TokfluenceClient(sandbox.token, base_url=sandbox.url) as client:
                    asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGINT)
                    async for _ in client.posts.resolve(IDS):
                        pass
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            pass
        """,
    "tasks left running": """
        async def main():
            async with Sandbox(latency=100) as sandbox:
                client = TokfluenceClient(sandbox.token, base_url=sandbox.url)
                task = asyncio.create_task(client.posts.analyze(IDS))
                await asyncio.sleep(0.1)
        asyncio.run(main())
        """,
}


@pytest.fixture(scope="module")
def complaints() -> dict[str, str]:
    """What each scene, one after another in one process, printed to standard error; the rest is
    from its end."""
    scenes = {name: textwrap.dedent(script) for name, script in FORGOTTEN.items()}
    script = f"""
        for name, scene in {scenes!r}.items():
            exec(compile(scene, name, "exec"), space := dict(globals()))
            if name != "never closed, global":
                del space
            gc.collect()
            sys.stderr.write(f"<<{{name}}>>")
        """
    done = run_script(script)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = {"stdout": done.stdout}
    rest = done.stderr
    for name in FORGOTTEN:
        found[name], _, rest = rest.partition(f"<<{name}>>")
    return {**found, "the end of the process": rest}


@pytest.mark.real_time
@pytest.mark.parametrize("name", [*FORGOTTEN, "the end of the process"])
def test_a_client_that_is_forgotten_is_quiet(complaints: dict[str, str], name: str) -> None:
    """No "Unclosed client session", no ResourceWarning, no task destroyed: in notebooks nobody
    closes anything."""
    assert complaints[name] == ""
    if name == "collected in its loop":
        assert complaints["stdout"] == "0\n"


FORKED = """
    async def main():
        async with Sandbox() as sandbox:
            client = TokfluenceClient(sandbox.token, base_url=sandbox.url)
            await asyncio.gather(*(client.posts.get(i) for i in IDS[:5]))
            opened = sandbox.open_connections
            loop = asyncio.get_running_loop()
            pid = os.fork()
            if pid == 0:
                CHILD
            ended = await loop.run_in_executor(None, os.waitpid, pid, 0)
            status = os.waitstatus_to_exitcode(ended[1])
            async with asyncio.timeout(20):
                await asyncio.gather(*(client.posts.get(i) for i in IDS[5:10]))
            parents = [e for e in sandbox.requests if e.headers.get("x-child") is None]
            ids = [e.request_id for e in sandbox.requests]
            reused = max(e.connection for e in sandbox.requests[-5:]) > 0
            print(status, len(ids) == len(set(ids)), reused)
            await client.aclose()
    asyncio.run(main())
    """

CHILDREN = {
    "uses the client in a loop of its own and exits at once": """
                async def child():
                    async with asyncio.timeout(20):
                        await asyncio.gather(*(client.posts.get(i) for i in IDS[20:25]))
                asyncio.run(child()); os._exit(7)
                """,
    "uses and closes it": """
                async def child():
                    async with asyncio.timeout(20):
                        await asyncio.gather(*(client.posts.get(i) for i in IDS[20:25]))
                        await client.aclose()
                asyncio.run(child()); os._exit(7)
                """,
    "collects it": """
                client = None; gc.collect(); os._exit(7)
                """,
    "ends like any interpreter": """
                sys.exit(7)
                """,
}


@pytest.mark.real_time
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("child", CHILDREN)
def test_a_forked_child_does_not_touch_its_parents_connections(child: str) -> None:
    """Trap 38: they share sockets and the selector; a close in the child would take both from the
    parent."""
    body = textwrap.dedent(CHILDREN[child]).strip().replace("\n", "\n" + " " * 16)
    script = FORKED.replace("CHILD", body)
    if "sys.exit" in child or child.startswith("ends"):
        # Leave the copied loop before the interpreter ends, as `multiprocessing` does.
        script = script.replace(
            "sys.exit(7)",
            "client._engine; import atexit; atexit._run_exitfuncs(); gc.collect(); os._exit(7)",
        )

    done = run_script(script)

    assert (done.stdout, done.stderr, done.returncode) == ("7 True True\n", "", 0)


# --- many at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("reads", "batches"), [(1, 1), (7, 2), (50, 8)])
async def test_no_more_are_in_flight_than_was_said(reads: int, batches: int) -> None:
    """Counted by the server, over faults and retries."""
    options = {
        "max_concurrency": reads,
        "analyze_concurrency": batches,
        "throttle": Throttle(None, None),
    }
    async with rig(options, latency=lambda: 1.0, indexed=0.0, per_ip=None, per_key=None) as (
        sandbox,
        client,
    ):
        sandbox.proxy_error(503, times=20, nth=3)
        sandbox.drop_answer(to=ANALYZE, times=3)
        work = [consume(client.posts.resolve(ids(120))), consume(client.posts.get_many(ids(120)))]

        await asyncio.gather(*work, client.posts.analyze(ids(60, start=500), batch_size=3))

        assert sandbox.peak_in_flight(POST) == reads
        assert sandbox.peak_in_flight(ANALYZE) == batches
        check_money(sandbox, client)


async def test_a_thousand_at_once_are_served_in_order() -> None:
    """Fairness: nobody who came first waits for those who came later."""
    async with rig({"throttle": Throttle(None, None)}, per_ip=None, per_key=None, latency=0.5) as (
        sandbox,
        client,
    ):
        finished: list[str] = []

        async def one(post_id: str) -> None:
            await client.posts.get(post_id)
            finished.append(post_id)

        await asyncio.gather(*(one(post_id) for post_id in ids(1000)))

        places = [abs(finished.index(post_id) - i) for i, post_id in enumerate(ids(1000))]
        assert max(places) <= 50  # one round of the places there are
        assert sandbox.requests_received == client.usage.requests == 1000


async def test_a_flood_of_reads_does_not_hold_up_analysis() -> None:
    """Batches have places of their own and go before waiting reads."""
    async with rig(indexed=0.0, seconds_per_url=0.0) as (sandbox, client):
        reads = [asyncio.create_task(client.posts.get(post_id)) for post_id in ids(900)]
        await asyncio.sleep(5)
        began = asyncio.get_running_loop().time()

        (await client.posts.analyze(ids(5, start=2000))).raise_for_errors()

        assert asyncio.get_running_loop().time() - began < 5
        for read in reads:
            read.cancel()
        with suppress(asyncio.CancelledError, TokfluenceError):
            await asyncio.gather(*reads, return_exceptions=True)
        assert sandbox.rate_limited == 0


async def test_comments_of_many_posts_do_not_mix() -> None:
    """Twenty walks over one client, each with prefetch, each whole and in order."""
    async with rig(comments_per_post=450) as (sandbox, client):

        async def walk(post_id: str) -> list[str]:
            return [
                c.comment_id async for c in client.posts.comments(post_id, limit=50, prefetch=4)
            ]

        found = await asyncio.gather(*(walk(post_id) for post_id in ids(20)))

        for post_id, got in zip(ids(20), found, strict=True):
            assert got == [
                sandbox.world.comment(post_id, offset)["comment_id"] for offset in range(450)
            ]
        assert sandbox.requests_received == 20 * 9
        assert sandbox.summary()["routes"][COMMENTS] == 180
