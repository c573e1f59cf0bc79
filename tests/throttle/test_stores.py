"""The stores of a shared throttle, a file and a real Redis on loopback: what they hold, what breaks
them, and what is said of it."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis_server import needs_redis, running

from tokfluence_async import ConfigurationError, Sandbox, TokfluenceClient
from tokfluence_async._platform import lock_file, unlock_file
from tokfluence_async._throttle import file_store, registry
from tokfluence_async._throttle.file_store import FileStore
from tokfluence_async._throttle.lanes import Lanes
from tokfluence_async._throttle.store import Answer, Ask, LaneAsk, StoreError
from tokfluence_async._throttle.throttle import Throttle

POST = "7234567890123456789"
TOKEN = "tkf_live_" + "s3cret" * 6
PASSWORD = "p4ssw0rd"
# Slots every two milliseconds.
QUICK = {"per_ip": 500, "per_key": None, "period": 1.0, "jitter": 0.1}

real_time = pytest.mark.real_time


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running() as server:
        yield server.url


@pytest.fixture(params=["file", pytest.param("redis", marks=needs_redis)])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of either kind."""
    if request.param == "file":
        return str(tmp_path / "throttle")
    url = request.getfixturevalue("redis_url")
    assert isinstance(url, str)
    return url


async def slots(lanes: Lanes, count: int = 3) -> int:
    granted = 0
    for _ in range(count):
        await lanes.acquire()
        granted += 1
    await lanes.aclose()
    return granted


# -------------------------------------------------------------------------------------------------
# a whole client


@real_time
async def test_a_client_sends_through_a_shared_throttle(shared: str) -> None:
    throttle = Throttle(shared=shared, **QUICK)
    async with (
        Sandbox() as sandbox,
        TokfluenceClient(sandbox.token, base_url=sandbox.url, throttle=throttle) as client,
    ):
        posts = await asyncio.gather(*(client.posts.get(POST) for _ in range(10)))

        assert {post.post_id for post in posts} == {POST}
        assert (throttle.statistics().processes, throttle.statistics().shared) == (1, True)
        assert sandbox.credits_spent == 10


@real_time
@needs_redis
@pytest.mark.parametrize(
    ("options", "user", "says"),
    [
        (("--requirepass", PASSWORD), "", "password"),
        (("--requirepass", PASSWORD), ":wrong-one@", "password"),
        (("--maxmemory", "1"), "", "OOM command not allowed"),
        (("--replicaof", "127.0.0.1", "1"), "", "read-only"),
    ],
)
async def test_a_redis_that_does_not_work_is_told_before_anything_is_sent(options, user, says):
    with running(*options) as server:
        throttle = Throttle(shared=server.url.replace("//", f"//{user}"))
        async with (
            Sandbox() as sandbox,
            TokfluenceClient(sandbox.token, base_url=sandbox.url, throttle=throttle) as client,
        ):
            with pytest.raises(ConfigurationError, match=says) as caught:
                await client.posts.get(POST)

            assert sandbox.credits_spent == 0
            assert not sandbox.requests
            assert "wrong-one" not in str(caught.value)
            assert len(str(caught.value).splitlines()) == 1


@real_time
@needs_redis
async def test_a_redis_that_holds_something_else_is_left_alone(redis_url: str, origin: str) -> None:
    redis = pytest.importorskip("redis")
    with redis.Redis.from_url(redis_url.replace("/0", "/7")) as other:
        for key in ("text", "hash"):
            other.flushdb()
            if key == "text":
                other.set("{tokfluence}:throttle", "somebody's")
            else:
                other.hset("{tokfluence}:throttle", "somebody", "else")
            lanes = Throttle(shared=redis_url.replace("/0", "/7")).lanes(f"{origin}/{key}", TOKEN)

            with pytest.raises(ConfigurationError, match="something else"):
                await lanes.acquire()
            await lanes.aclose()

            assert other.keys() == [b"{tokfluence}:throttle"]


async def test_the_script_paces_on_the_virtual_clock(origin, monkeypatch):
    """By fakeredis, whose time is the loop's; hours of it are in tests/throttle/test_soak.py."""
    fakeredis = pytest.importorskip("fakeredis")
    pytest.importorskip("lupa")
    from tokfluence_async._throttle.redis_store import RedisStore

    loop = asyncio.get_running_loop()
    monkeypatch.setattr("time.time", loop.time)
    client = fakeredis.FakeAsyncRedis(decode_responses=True)
    monkeypatch.setattr(RedisStore, "_client", lambda _: client)
    lanes = Throttle(shared="redis://127.0.0.1:1/0").lanes(origin, "key")
    await lanes.acquire()
    began = loop.time()

    await asyncio.gather(*(lanes.acquire() for _ in range(200)))

    assert loop.time() - began == pytest.approx(200 * 60.57 / 600, abs=0.02)
    await lanes.aclose()


# -------------------------------------------------------------------------------------------------
# loops, threads, forks


@real_time
def test_one_event_loop_after_another_goes_on_with_the_budget(shared: str, origin: str) -> None:
    lanes = Throttle(shared=shared, **QUICK).lanes(origin, "key")

    assert asyncio.run(slots(lanes)) + asyncio.run(slots(lanes)) == 6


@real_time
def test_two_threads_share_leases_and_nobody_is_left_behind(shared: str, origin: str) -> None:
    """A lease that came by one loop may be for a waiter of the other."""
    throttle = Throttle(shared=shared, **QUICK)
    ready = threading.Barrier(2)

    async def crawl() -> int:
        lanes = throttle.lanes(origin, "key")
        ready.wait(10)
        await asyncio.gather(*(lanes.acquire() for _ in range(40)))
        await lanes.aclose()
        return 40

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(lambda: asyncio.run(crawl())) for _ in range(2)]
        assert sum(job.result(timeout=60) for job in jobs) == 80
    assert throttle.statistics().waiting == 0


@real_time
def test_a_forked_child_is_a_process_of_its_own(shared: str) -> None:
    """It takes neither the parent's leases nor its connection."""
    script = textwrap.dedent(
        """
        import asyncio, os, sys
        from tokfluence_async import Throttle

        throttle = Throttle(500, None, 1.0, jitter=0.1, shared=sys.argv[1])
        lanes = throttle.lanes("http://fork.test", "key")

        async def parent():
            await asyncio.gather(*(lanes.acquire() for _ in range(5)))
            child = os.fork()
            if child == 0:
                asyncio._set_running_loop(None)
                os._exit(asyncio.run(in_the_child()))
            await lanes.acquire()
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            await lanes.acquire()
            await lanes.aclose()
            return code

        async def in_the_child():
            await asyncio.gather(*(lanes.acquire() for _ in range(5)))
            return 0 if throttle.statistics().processes == 2 else 10

        sys.exit(asyncio.run(parent()))
        """
    )

    done = subprocess.run(
        [sys.executable, "-c", script, shared],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_who_shares_nothing_loads_nothing_of_it() -> None:
    script = (
        "import sys, asyncio; from tokfluence_async import Throttle\n"
        "async def main(): Throttle().lanes('http://x.test', 'key').try_acquire()\n"
        "asyncio.run(main())\n"
        "print([m for m in sys.modules if m.split('.')[0] == 'redis' or m.endswith(\n"
        "    ('_throttle.shared', '_throttle.file_store', '_throttle.redis_store'))])"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TOKFLUENCE_")}

    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment,
    )

    assert done.stdout.strip() == "[]"


# -------------------------------------------------------------------------------------------------
# what is named


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"shared": "http://127.0.0.1/0"}, "http://"),
        ({"shared": "memcached://127.0.0.1"}, "redis://"),
        ({"shared": 5}, "int"),
        ({"shared": b"/tmp/x"}, "bytes"),
        ({"shared": "/not/there/throttle"}, "not there"),
        ({"shared": "/"}, "folder"),
        ({"shared": "a\nb"}, "character"),
        ({"shared": "a\0b"}, "character"),
        ({"ip": ""}, "ip is a name"),
        ({"ip": 5}, "ip is a name"),
    ],
)
def test_what_names_no_store_is_refused_in_one_line(wrong, says):
    with pytest.raises(ConfigurationError, match=says) as caught:
        Throttle(**wrong)

    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ConfigurationError, match=r"\[redis\]"):
        Throttle(shared="redis://127.0.0.1:6379/0")


def test_the_environment_names_store_and_address(monkeypatch, tmp_path):
    monkeypatch.setenv("TOKFLUENCE_SHARED", str(tmp_path / "throttle"))
    monkeypatch.setenv("TOKFLUENCE_IP", "second")
    throttle = Throttle()
    own = Throttle(shared=tmp_path / "own", ip="third")

    assert f"shared='{tmp_path / 'throttle'}', ip='second'" in repr(throttle)
    assert f"shared='{tmp_path / 'own'}', ip='third'" in repr(own)
    monkeypatch.setenv("TOKFLUENCE_SHARED", "")
    assert "shared" not in repr(Throttle())


def test_a_path_means_what_it_meant_when_the_throttle_was_made(monkeypatch, tmp_path):
    """`~` is a home, and the folder that a process works in may change."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    assert str(tmp_path / "throttle") in repr(Throttle(shared="~/throttle"))
    assert str(tmp_path / "throttle") in repr(Throttle(shared="throttle"))


# -------------------------------------------------------------------------------------------------
# secrets


@real_time
@needs_redis
async def test_no_password_and_no_token_is_shown_or_stored(origin, caplog, tmp_path):
    """In no repr, log, error or traceback with locals; and a store holds no token, nor its plain
    hash."""
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    stored = b""
    path = tmp_path / "throttle"
    with running("--requirepass", PASSWORD) as server:
        named = server.url.replace("//", f"//:{PASSWORD}@")
        throttle = Throttle(shared=named, **QUICK)
        lanes = throttle.lanes(origin, TOKEN)
        await lanes.acquire()
        seen += [repr(throttle), repr(throttle.shared), repr(lanes), repr(throttle.statistics())]
        seen += [repr(vars(lanes._origin)), repr(vars(lanes._origin.store))]
        redis = pytest.importorskip("redis")
        with redis.Redis.from_url(named) as client:
            for key in client.scan_iter():
                stored += key + (client.dump(key) or b"")
        server.kill()
        await lanes.acquire()
        wrong = Throttle(
            shared=server.url.replace("//", f"//{PASSWORD}:{PASSWORD}@") + f"?x={PASSWORD}"
        )
        try:
            await wrong.lanes(origin + ":81", TOKEN).acquire()
        except ConfigurationError as error:
            told = traceback.TracebackException.from_exception(error, capture_locals=True)
            ours = [frame for frame in told.stack if "_throttle" in frame.filename]
            assert ours
            seen += [
                str(told),
                *(repr(frame.locals) for frame in ours if "tests" not in frame.filename),
            ]
        await lanes.aclose()
    filed = Throttle(shared=path, **QUICK).lanes(origin, TOKEN)
    await filed.acquire()
    await filed.aclose()
    stored += path.read_bytes()
    seen.append(caplog.text)

    for text in seen:
        assert PASSWORD not in text
        assert "s3cret" not in text
    assert "goes on alone" in caplog.text
    assert b"s3cret" not in stored
    assert lanes._key not in stored
    assert lanes._key.hex().encode() not in stored


# -------------------------------------------------------------------------------------------------
# the file


def ask(key: str = "key", *, limit: int = 1200, slots: int = 1, process: str = "one") -> Ask:
    return Ask(
        process.encode().ljust(16),
        LaneAsk(b"here".ljust(16), 600, 60.57, 60.0),
        LaneAsk(key.encode().ljust(16), limit, 60.57, 60.0),
        slots=slots,
    )


class Clock:
    now = 5000.0

    def __call__(self) -> float:
        return self.now


def go(store: FileStore, what: Ask, clock: Clock) -> Answer | StoreError:
    found: list[Answer | StoreError | None] = []
    loop = asyncio.new_event_loop()
    try:
        store.request(what, loop, clock, lambda answer, _: found.append(answer))
    finally:
        loop.close()
    (answer,) = found
    assert answer is not None
    return answer


def leases(store: FileStore, clock: Clock, count: int = 3, **more) -> list[int]:
    answer = go(store, ask(slots=count, **more), clock)
    assert isinstance(answer, Answer), answer
    return [lease for lease, _ in answer.leases]


def test_two_processes_find_each_others_leases_in_the_file(tmp_path):
    clock = Clock()
    one, other = (FileStore(str(tmp_path / "f"), "clock") for _ in range(2))

    both = leases(one, clock) + leases(other, clock, process="other") + leases(one, clock)

    assert both == sorted(set(both))
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_many_keys_and_larger_grids_have_room_in_one_file(tmp_path):
    clock = Clock()
    one, other = (FileStore(str(tmp_path / "f"), "clock") for _ in range(2))
    everything = []
    for number in range(20):
        everything += leases(one, clock, key=f"key {number}")
        everything += leases(other, clock, key=f"key {number}")
    everything += leases(one, clock, key="key 3", limit=100)
    clock.now += 20.0
    everything += leases(other, clock, key="key 3", limit=5000)
    everything += leases(one, clock, key="key 3", limit=5000)

    assert len(everything) == len(set(everything))


@pytest.mark.parametrize("damage", ["removed", "emptied", "cut", "another start of the machine"])
def test_a_file_that_lost_its_data_begins_anew_for_all(tmp_path, damage):
    """And nobody is killed by a file that became shorter."""
    clock = Clock()
    path = tmp_path / "f"
    one, other = (FileStore(str(path), "clock") for _ in range(2))
    before = leases(one, clock) + leases(other, clock)
    if damage == "removed":
        path.unlink()
    elif damage == "emptied":
        os.truncate(path, 0)
    elif damage == "cut":
        os.truncate(path, 1000)
    else:
        other = FileStore(str(path), "another clock")
        one = FileStore(str(path), "another clock")

    after = leases(one, clock) + leases(other, clock) + leases(one, clock)

    assert len(after) == len(set(after)) == 9
    assert after == sorted(after)
    assert len(before) == 6


def test_a_file_that_holds_something_else_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n" * 500)

    answer = go(FileStore(str(path)), ask(), Clock())

    assert isinstance(answer, StoreError)
    assert answer.lasting
    assert "something else" in str(answer)
    assert path.read_text() == "my notes\n" * 500


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_are_an_error_and_no_crash(tmp_path, seed):
    import random

    clock = Clock()
    path = tmp_path / "f"
    leases(FileStore(str(path), "clock"), clock)
    data = bytearray(path.read_bytes())
    chance = random.Random(seed)
    for _ in range(400):
        data[chance.randrange(64, len(data))] = chance.randrange(256)
    path.write_bytes(bytes(data))

    answer = go(FileStore(str(path), "clock"), ask(slots=5), clock)

    assert isinstance(answer, (Answer, StoreError))


def test_a_locked_file_is_not_waited_for(tmp_path):
    """Whoever holds it may be stopped; the event loop goes on."""
    clock = Clock()
    path = tmp_path / "f"
    store = FileStore(str(path), "clock")
    leases(store, clock)
    with path.open("rb+") as holder:
        lock_file(holder.fileno())
        answer = go(store, ask(), clock)
        unlock_file(holder.fileno())

    assert isinstance(answer, StoreError)
    assert not answer.lasting
    assert leases(store, clock)


@pytest.mark.skipif(sys.platform != "linux", reason="where the system says when it started")
def test_the_clock_is_named_by_the_start_of_the_machine(monkeypatch, tmp_path):
    name = file_store.name_of_boot()
    monkeypatch.setattr(file_store, "_BOOT_ID", tmp_path / "missing")

    assert len(name) == 36
    assert file_store.name_of_boot() == "unknown"


def test_each_store_is_opened_once_a_process(tmp_path, origin):
    one = Throttle(shared=tmp_path / "f")
    other = Throttle(shared=tmp_path / "f", ip="other")

    async def main() -> int:
        for throttle in (one, other):
            lanes = throttle.lanes(origin, "key")
            await lanes.acquire()
            await lanes.aclose()
        return len([name for name, _ in registry.current.stores if name == str(tmp_path / "f")])

    assert asyncio.run(main()) == 1
