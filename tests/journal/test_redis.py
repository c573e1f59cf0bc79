"""A journal that processes share: nothing is sent by two, and nothing is forgotten."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from pieces import ANALYZE, IDS, posts

from tokfluence_async import (
    Analysis,
    ConfigurationError,
    Journal,
    JournalError,
    Outcome,
    RedisJournal,
    Sandbox,
    Throttle,
    TokfluenceClient,
    TokfluenceError,
    crawl,
)
from tokfluence_async._journal import redis_store
from tokfluence_async._journal.records import TakenError
from tokfluence_async._journal.redis import RedisCall
from tokfluence_async._journal.scripts import SCRIPTS
from tokfluence_async._tasks import end

if TYPE_CHECKING:
    from shared_store import Store

GET = "GET /v1/posts/:id"


def analyzed(*post_ids: str, status: str = "analyzed") -> list[Outcome[Analysis]]:
    return [
        Outcome(input=i, post_id=i, value=Analysis(post_id=i, url="u", status=status))
        for i in post_ids
    ]


async def stop(journal: RedisJournal) -> None:
    """As SIGSTOP does: no sign of life any more."""
    heart = journal._session._heart
    assert heart is not None
    await end([heart])


async def kill(journal: RedisJournal) -> None:
    """As SIGKILL does: no sign of life, and nothing put in order."""
    await stop(journal)
    journal._session._client = None


def another(sandbox: Sandbox, **options: Any) -> TokfluenceClient:
    """The client of another process, with a throttle of its own."""
    options = {"throttle": Throttle(None, None)} | options
    return TokfluenceClient(sandbox.token, base_url=sandbox.url, **options)


def sent(sandbox: Sandbox) -> list[str | None]:
    return [entry.request_id for entry in sandbox.requests if entry.route == ANALYZE]


# --- rule 1: a claim belongs to a call ------------------------------------------------------------


async def test_what_one_call_takes_up_another_of_its_process_does_not_send(store: Store) -> None:
    """The one took up a doubt; the other had looked its posts up before, and sent them."""
    dead = await store.journal().open()
    await dead.sending("id-1", posts(IDS[0], IDS[1]), replaces=None)
    await kill(dead)
    await asyncio.sleep(40)

    async with store.journal() as journal:
        one, other = journal.for_call(), journal.for_call()
        assert await other.look_up(IDS[0]) is None
        [doubt] = await one.take_up()
        with pytest.raises(TakenError) as caught:
            await other.sending("id-2", posts(*IDS[:3]), replaces=None)
        assert caught.value.posts == IDS[:2]
        assert await other.take_up(IDS[:1]) == []

        waiting = asyncio.create_task(other.wait_for(IDS[:1]))
        await asyncio.sleep(20)
        assert not waiting.done()
        await one.settled(doubt.request_id, analyzed(*IDS[:2]))
        await waiting
        entry = await other.look_up(IDS[0])

    assert entry is not None
    assert entry.status == "analyzed"


@pytest.mark.parametrize("unsure", [False, True])
async def test_what_a_call_settles_for_the_dead_it_does_not_send_for_itself(
    store: Store, unsure: bool
) -> None:
    """One of its workers settled the batch by a 409; another had the posts among its inputs."""
    dead = await store.journal().open()
    await dead.sending("id-1", posts(*IDS[:2]), replaces=None)
    await kill(dead)
    await asyncio.sleep(40)

    async with store.journal() as journal:
        await journal.take_up()
        outcomes = analyzed(*IDS[:2], status="duplicate_request")
        await journal.settled("id-1", outcomes, unsure=unsure)
        with pytest.raises(TakenError):
            await journal.sending("id-2", posts(*IDS[1:3]), replaces=None)


async def test_a_call_replaces_its_own_batches_only(store: Store) -> None:
    """The id of another call's batch is not its to use up."""
    async with store.journal() as journal:
        one, other = journal.for_call(), journal.for_call()
        await one.sending("id-1", posts(IDS[0]), replaces=None)
        with pytest.raises(TakenError):
            await other.sending("id-2", posts(IDS[0]), replaces="id-1")
        await other.released("id-1")
        other.forgotten("id-1")
        await other.settled("id-1", analyzed(IDS[0], status="duplicate_request"), unsure=True)
        with pytest.raises(TakenError):
            await other.sending("id-3", posts(IDS[0]), replaces=None)


@pytest.mark.sandbox(indexed=0.0)
async def test_two_calls_over_a_doubt_pay_once(store: Store, sandbox: Sandbox) -> None:
    """At once, with one journal, over the same posts."""
    sandbox.drop_answer(to=ANALYZE)
    async with another(sandbox, max_retries=0) as first, store.journal() as dying:
        await first.posts.analyze(IDS, batch_size=50, journal=dying)
        await kill(dying)
    await asyncio.sleep(40)

    async with another(sandbox) as client, store.journal() as journal:
        reports = await asyncio.gather(
            *[client.posts.analyze(IDS, batch_size=size, journal=journal) for size in (50, 3, 1)]
        )

    assert [len(report.succeeded) for report in reports] == [12, 12, 12]
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}


# --- rule 2: sending is a compare-and-set ---------------------------------------------------------


async def test_a_post_is_in_one_batch_at_a_time(store: Store) -> None:
    """Whoever comes second is told of the posts that are not free, and has written nothing."""
    async with store.journal() as one, store.journal() as other:
        await one.sending("id-1", posts(*IDS[:2]), replaces=None)
        with pytest.raises(TakenError) as caught:
            await other.sending("id-2", posts(*IDS[1:4]), replaces=None)
        assert caught.value.posts == [IDS[1]]
        await other.sending("id-3", posts(*IDS[2:4]), replaces=None)
        await one.released("id-1")
        await other.sending("id-4", posts(*IDS[:2]), replaces=None)


async def test_what_was_settled_since_it_was_looked_up_is_not_sent(store: Store) -> None:
    """It was free then; it was analyzed in between."""
    async with store.journal() as one, store.journal() as other:
        assert await one.look_up(IDS[0]) is None
        await other.sending("id-1", posts(IDS[0]), replaces=None)
        await other.settled("id-1", analyzed(IDS[0]))
        with pytest.raises(TakenError) as caught:
            await one.sending("id-2", posts(*IDS[:2]), replaces=None)

    assert caught.value.posts == IDS[:1]


async def test_a_record_that_was_found_wanting_may_be_replaced_once(store: Store) -> None:
    """Two have seen that only a 409 spoke for it, and that the post never came. One of them sends;
    the other has not seen what came of that."""
    async with store.journal() as first, store.journal() as one, store.journal() as other:
        await first.sending("id-1", posts(IDS[0]), replaces=None)
        await first.settled("id-1", analyzed(IDS[0], status="duplicate_request"), unsure=True)
        for journal in (one, other):
            entry = await journal.look_up(IDS[0])
            assert entry is not None
            assert entry.unsure
        await one.sending("id-2", posts(IDS[0]), replaces=None)
        await one.settled("id-2", analyzed(IDS[0], status="duplicate_request"), unsure=True)
        with pytest.raises(TakenError):
            await other.sending("id-3", posts(IDS[0]), replaces=None)
        await other.look_up(IDS[0])
        await other.sending("id-4", posts(IDS[0]), replaces=None)


async def test_a_batch_that_was_taken_over_is_not_given_back(store: Store) -> None:
    """Its first owner comes back, finds that no attempt of it ran, and gives it up."""
    async with store.journal() as slow, store.journal() as journal, store.journal() as third:
        await slow.sending("id-1", posts(IDS[0]), replaces=None)
        await stop(slow)
        await asyncio.sleep(40)
        [doubt] = await journal.take_up()
        await slow.released("id-1")
        with pytest.raises(TakenError):
            await third.sending("id-2", posts(IDS[0]), replaces=None)
        await journal.confirm(doubt.request_id)


async def test_what_is_sure_stays_sure(store: Store) -> None:
    """A late 409 of somebody whose batch was taken over says less than the answer."""
    async with store.journal() as slow, store.journal() as journal:
        await slow.sending("id-1", posts(IDS[0]), replaces=None)
        await stop(slow)
        await asyncio.sleep(40)
        await journal.take_up()
        await journal.settled("id-1", analyzed(IDS[0]))
        await slow.settled("id-1", analyzed(IDS[0], status="duplicate_request"), unsure=True)
        entry = await journal.look_up(IDS[0])

    assert entry is not None
    assert (entry.status, entry.unsure) == ("analyzed", False)


@pytest.mark.sandbox(indexed=0.0)
async def test_processes_with_the_same_inputs_pay_once(store: Store, sandbox: Sandbox) -> None:
    """All begin at once; each gets every outcome, and the work is divided."""
    async with another(sandbox) as a, another(sandbox) as b, another(sandbox) as c:
        reports = await asyncio.gather(
            *[
                client.posts.analyze(
                    IDS, batch_size=size, journal="redis://127.0.0.1:6379/0?job=one"
                )
                for client, size in ((a, 2), (b, 3), (c, 5))
            ]
        )

    for report in reports:
        assert {outcome.post_id for outcome in report.succeeded} == set(IDS)
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}
    assert sandbox.credits_spent == 25 * len(IDS)
    assert sum(report.credits_spent for report in reports) == 25 * len(IDS)


@pytest.mark.sandbox(indexed=0.0)
async def test_a_process_that_was_stopped_sends_nothing_that_others_have_taken(
    store: Store, sandbox: Sandbox
) -> None:
    """It waited at a closed gate, with its batch written down, when it was stopped. An hour later
    it comes back."""
    sandbox.rate_limit(to=ANALYZE, retry_after=600)
    async with another(sandbox) as slow, store.journal() as its, another(sandbox) as quick:
        report = asyncio.create_task(slow.posts.analyze(IDS, batch_size=50, journal=its))
        await asyncio.sleep(5)
        await stop(its)
        async with store.journal() as journal:
            await asyncio.sleep(20)
            other = await quick.posts.analyze(IDS, batch_size=4, journal=journal)
        requests = sandbox.requests_received
        late = await report

    assert sandbox.requests_received == requests
    assert len(other.succeeded) == len(late.succeeded) == len(IDS)
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}
    assert len(set(sent(sandbox)[:2])) == 1  # the old id goes on


@pytest.mark.sandbox(indexed=0.0)
async def test_a_process_that_was_stopped_in_line_sends_nothing_that_others_have_taken(
    store: Store, sandbox: Sandbox
) -> None:
    """The batch was never sent, and its slot comes when it is somebody else's."""
    line = Throttle(per_ip=1, per_key=None, period=300, burst=1)
    async with another(sandbox, throttle=line) as slow, store.journal() as its:
        first = asyncio.create_task(slow.posts.analyze(["1"], batch_size=1, journal=its))
        report = asyncio.create_task(slow.posts.analyze(IDS, batch_size=50, journal=its))
        await asyncio.sleep(20)
        await stop(its)
        assert len(sent(sandbox)) == 1
        async with another(sandbox) as quick, store.journal() as journal:
            await asyncio.sleep(20)
            other = await quick.posts.analyze(IDS, batch_size=50, journal=journal)
        before = len(sent(sandbox))
        late = await report
        await first

    assert len(sent(sandbox)) == before == 2
    assert len(other.succeeded) == len(late.succeeded) == len(IDS)
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}


@pytest.mark.sandbox(indexed=0.0)
async def test_a_process_that_was_stopped_goes_on_where_nobody_has_taken_its_batch(
    store: Store, sandbox: Sandbox
) -> None:
    """It asks, and is told that the batch is still its own."""
    sandbox.rate_limit(to=ANALYZE, retry_after=600)
    async with another(sandbox) as client, store.journal() as journal:
        report = asyncio.create_task(client.posts.analyze(IDS, batch_size=50, journal=journal))
        await asyncio.sleep(5)
        await stop(journal)

        assert len((await report).succeeded) == len(IDS)
    assert len(set(sent(sandbox))) == 1


# --- rule 3: a heartbeat; the dead are taken over, the living waited for --------------------------


@pytest.mark.sandbox(indexed=0.0)
@pytest.mark.parametrize("done", [True, False])
async def test_a_dead_owners_batch_is_taken_over_within_forty_seconds(
    store: Store, sandbox: Sandbox, done: bool
) -> None:
    """Under its old request id: the service's 409 does the rest."""
    loop = asyncio.get_running_loop()
    if done:
        sandbox.drop_answer(to=ANALYZE)
    else:
        sandbox.refuse_connection(to=ANALYZE)
    async with another(sandbox, max_retries=0) as dying, store.journal() as its:
        # Killed between the loss of the answer and the end of the call.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RedisCall, "forgotten", lambda *_: None)
            await dying.posts.analyze(IDS, batch_size=50, journal=its)
        await kill(its)
        died = loop.time()

        async with another(sandbox) as client:
            report = await client.posts.analyze(
                IDS, batch_size=50, journal="redis://127.0.0.1:6379/0?job=job"
            )

    again = [entry for entry in sandbox.requests if entry.route == ANALYZE][-1]
    assert again.time - died < 40
    assert len(report.succeeded) == len(IDS)
    assert len(sent(sandbox)) == 2
    assert len(set(sent(sandbox))) == 1
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}


@pytest.mark.sandbox(indexed=0.0, seconds_per_url=30.0)
async def test_a_live_owners_posts_are_waited_for(store: Store, sandbox: Sandbox) -> None:
    """Minutes, as a batch of cold URLs may take; nothing is sent meanwhile."""
    async with (
        another(sandbox, timeout=3600) as slow,
        another(sandbox) as quick,
        store.journal() as one,
        store.journal() as other,
    ):
        first = asyncio.create_task(slow.posts.analyze(IDS, batch_size=50, journal=one))
        await asyncio.sleep(10)
        second = await quick.posts.analyze(IDS, batch_size=50, journal=other)

        assert first.done()
        assert len(second.succeeded) == len((await first).succeeded) == len(IDS)
    assert len(sent(sandbox)) == 1
    assert second.credits_spent == 0


async def test_a_journal_that_is_closed_leaves_its_doubts_at_once(store: Store) -> None:
    """Nobody has to wait for the end of a heartbeat."""
    async with store.journal() as one:
        await one.sending("id-1", posts(IDS[0]), replaces=None)
    async with store.journal() as other:
        assert [doubt.request_id for doubt in await other.take_up()] == ["id-1"]


async def test_a_journal_that_lives_keeps_its_batches(store: Store) -> None:
    """For hours, with nothing to tell but that it lives."""
    async with store.journal() as one, store.journal() as other:
        await one.sending("id-1", posts(IDS[0]), replaces=None)
        for _ in range(100):
            await asyncio.sleep(60)
            assert await other.take_up() == []
            assert one.holds


# --- rule 4: as durable as its server -------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"appendonly": "no", "appendfsync": "always"}, "appendonly no"),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "appendfsync everysec"),
        (
            {
                "appendonly": "yes", "appendfsync": "always", "maxmemory": "1000",
                "maxmemory-policy": "allkeys-lru",
            },
            "noeviction",
        ),
        ({"appendonly": "yes", "appendfsync": "always", "maxmemory": "0"}, None),
    ],
)  # fmt: skip
async def test_a_server_that_may_forget_is_warned_of(
    store: Store, caplog: pytest.LogCaptureFixture, config: dict[str, str], word: str | None
) -> None:
    """What it forgets is paid for again."""
    store.config = config
    with caplog.at_level(logging.WARNING):
        async with store.journal():
            pass

    assert [word in record.getMessage() for record in caplog.records if word] == [True] * bool(word)
    assert len(caplog.records) == bool(word)


@pytest.mark.sandbox(indexed=0.0, seconds_per_url=10.0)
async def test_a_store_that_was_emptied_ends_the_call(store: Store, sandbox: Sandbox) -> None:
    """What was paid is not known any more: to go on would pay for it again."""
    async with another(sandbox, analyze_concurrency=2) as client, store.journal() as journal:
        call = asyncio.create_task(client.posts.analyze(IDS, batch_size=2, journal=journal))
        await asyncio.sleep(5)
        store.server = type(store.server)()  # a new server, and nothing in it
        journal._session._client = store.connect(None)
        journal._session._scripts = {
            name: journal._session._client.register_script(text) for name, text in SCRIPTS.items()
        }
        before = len(sent(sandbox))
        with pytest.raises(JournalError, match="was emptied"):
            await call

        with pytest.raises(JournalError, match="was emptied"):
            await client.posts.analyze(IDS, journal=journal)
    assert len(sent(sandbox)) == before
    assert set(sandbox.times_charged(ANALYZE).values()) <= {1}


async def test_a_store_that_is_away_for_a_while_is_waited_for(
    store: Store, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """A server that restarts and loads its data."""
    async with store.journal() as journal:
        store.server.connected = False
        asyncio.get_running_loop().call_later(8, lambda: setattr(store.server, "connected", True))
        report = await client.posts.analyze(IDS, journal=journal)

    assert len(report.succeeded) == len(IDS)


async def test_a_store_that_stays_away_ends_the_call(
    store: Store, sandbox: Sandbox, client: TokfluenceClient
) -> None:
    """Within fifteen seconds, with nothing sent."""
    loop = asyncio.get_running_loop()
    async with store.journal() as journal:
        store.server.connected = False
        began = loop.time()
        with pytest.raises(JournalError, match="cannot be reached"):
            await client.posts.analyze(IDS, journal=journal)
        assert loop.time() - began < 15
    store.server.connected = False
    began = loop.time()
    with pytest.raises(JournalError, match="cannot be reached"):
        await store.journal().open()

    assert loop.time() - began < 15
    assert sandbox.requests_received == 0


# --- strangers, and mistakes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("posts", IDS[0], "hello"),
        ("posts", IDS[0], "1 id-1 now []"),
        ("posts", IDS[0], '1 id-1 1.0 {"a":1}'),
        ("posts", IDS[0], '1 bad/../id 1.0 ["analyzed",null]'),
        ("batches", "id\r\nX-Evil: 1", "- 1.0 1.0 1@_"),
        ("batches", "id-1", "- 1.0 1.0 1/comments@_"),
        ("batches", "id-1", "- 1.0 1.0 1@_/../../../x"),
        ("batches", "id-1", "- x 1.0 1@_"),
        ("batches", "id-1", "hello"),
        ("batches", "id-1", ""),
        ("learnt", "seconds", "soon"),
    ],
)
async def test_what_somebody_else_has_written_is_refused(
    store: Store, sandbox: Sandbox, client: TokfluenceClient, kind: str, field: str, value: str
) -> None:
    """Ids become parts of paths and headers, and 25 credits each."""
    raw = store.connect(None)
    async with store.journal() as journal:
        await raw.hset(f"{{tokfluence:journal:job}}:{kind}", field, value)
        with pytest.raises(JournalError, match="not as this package writes it"):
            await client.posts.analyze(IDS, journal=journal)

    assert not sent(sandbox)


@pytest.mark.parametrize("post_id", ["../../v1/campaigns", "²", "0", "", "99999999999999999999"])
async def test_posts_that_are_none_are_refused(store: Store, post_id: str) -> None:
    """They would be looked for, and paid for."""
    async with store.journal() as journal:
        record = '1 id-1 1.0 ["analyzed",null]'
        await store.connect(None).hset("{tokfluence:journal:job}:posts", post_id, record)
        with pytest.raises(JournalError, match="not as this package writes it"):
            await journal.known()


@pytest.mark.parametrize("kind", ["meta", "posts", "batches", "claims", "alive", "learnt"])
async def test_keys_that_hold_something_else_are_left_alone(store: Store, kind: str) -> None:
    """Another program's data under our names."""
    raw = store.connect(None)
    await raw.set(f"{{tokfluence:journal:job}}:{kind}", "theirs")

    with pytest.raises(JournalError, match=r"something else.*Nothing was sent"):
        await store.journal().open()

    assert await raw.get(f"{{tokfluence:journal:job}}:{kind}") == "theirs"
    assert await raw.dbsize() == 1


async def test_a_job_of_another_version_is_left_alone(store: Store) -> None:
    """What a newer one wrote, this one would misread."""
    async with store.journal():
        await store.connect(None).hset("{tokfluence:journal:job}:meta", "format", "99")

    with pytest.raises(JournalError, match=r"another version of this package .format 99"):
        await store.journal().open()


@pytest.mark.parametrize(
    ("url", "job"),
    [
        ("redis://localhost/0", None),
        ("redis://localhost/0?job=", None),
        ("redis://localhost/0?job=a%0Ab", None),
        ("redis://localhost/0", "a\nb"),
        ("redis://localhost/0", "x" * 101),
        ("redis://localhost/0", "é"),
        ("redis://localhost/0", 7),
        ("redis://localhost/0?job=a", "b"),
        ("http://localhost/", "a"),
        ("memcached://localhost/?job=a", None),
        ("localhost:6379", "a"),
        ("", "a"),
        ("redis://localhost:port/0?job=a", None),
        ("redis://[::1/0?job=a", None),
    ],
)
async def test_a_url_that_cannot_be_used_is_one_clear_line(url: str, job: Any) -> None:
    """Before anything is sent, or a connection opened."""
    with pytest.raises(ConfigurationError) as caught:
        RedisJournal(url, job)

    assert "\n" not in str(caught.value)


async def test_a_url_for_a_call_is_checked_there(client: TokfluenceClient) -> None:
    """A missing job is easily forgotten."""
    with pytest.raises(ConfigurationError, match="job"):
        await client.posts.analyze(IDS, journal="redis://localhost/0")
    with pytest.raises(JournalError):
        await Journal("redis://localhost/0?job=a").open()

    assert client.usage.requests == 0


async def test_a_missing_redis_py_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'tokfluence_async\[redis\]'"):
        await RedisJournal("redis://localhost/0", "a").open()


@pytest.mark.parametrize(
    "url",
    [
        "redis://someone:s3cr3t@127.0.0.1:1/0",
        "redis://:s3cr3t@127.0.0.1:1",
        "rediss://someone:s3cr3t@127.0.0.1:1/0?ssl_cert_reqs=none",
        "redis://127.0.0.1:1/0?password=s3cr3t",
        "unix://someone:s3cr3t@/nowhere/redis.sock?db=1",
        "redis://someone:s3cr3t@127.0.0.1:1/0?socket_timeout=soon",
        "redis://someone:s3cr3t@127.0.0.1:1/0?nonsense=1",
    ],
)
async def test_a_password_is_never_shown(
    url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In no repr, message, log or pickle, nor in what caused an error."""
    monkeypatch.setattr(redis_store, "PATIENCE", 0.5)
    caplog.set_level(logging.DEBUG)
    journal = RedisJournal(url, "job")
    with pytest.raises(TokfluenceError) as caught:
        await journal.open()

    error: BaseException | None = caught.value
    shown = [repr(journal), caplog.text, str(pickle.dumps(error))]
    while error is not None:
        shown += [repr(error), str(error), repr(vars(error))]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert not [text for text in shown if "s3cr3t" in text]


# --- with a crawl ---------------------------------------------------------------------------------


@pytest.mark.sandbox(indexed=0.5, comments_per_post=3)
async def test_crawls_that_share_a_journal_write_all_and_analyze_once(
    store: Store, sandbox: Sandbox, tmp_path: Any
) -> None:
    """Each folder has everything; what was written is known by the folder's own journal."""
    async with another(sandbox) as a, another(sandbox) as b:
        reports = await asyncio.gather(
            *[
                crawl(
                    client, IDS, tmp_path / name, comments=True,
                    journal="redis://127.0.0.1:6379/0?job=x",
                )
                for client, name in ((a, "a"), (b, "b"))
            ]
        )  # fmt: skip
        again = await crawl(
            a, IDS, tmp_path / "a", comments=True, journal="redis://127.0.0.1:6379/0?job=x"
        )

    assert [(report.posts, report.comments, report.failed) for report in reports] == [
        (12, 36, 0)
    ] * 2
    assert (again.skipped, again.posts) == (12, 0)
    assert set(sandbox.times_charged(ANALYZE).values()) == {1}
    assert Counter(sandbox.times_charged(GET)).most_common(1)[0][1] <= 6


async def test_doubts_of_the_folders_own_journal_are_not_left_behind(
    store: Store, client: TokfluenceClient, tmp_path: Any
) -> None:
    """Beside a shared one, nobody would settle them."""
    async with Journal(tmp_path / "journal.sqlite") as journal:
        await journal.sending("id-1", posts(IDS[0]), replaces=None)

    with pytest.raises(JournalError, match="in doubt"):
        await crawl(client, IDS, tmp_path, journal="redis://127.0.0.1:6379/0?job=x")


async def test_an_estimate_knows_what_the_shared_journal_knows(
    store: Store, client: TokfluenceClient
) -> None:
    """And costs nothing."""
    async with store.journal() as journal:
        await journal.sending("id-1", posts(*IDS[:5]), replaces=None)
        await journal.settled("id-1", analyzed(*IDS[:5]))

    estimate = await client.posts.estimate(IDS, journal="redis://127.0.0.1:6379/0?job=job")

    assert estimate.posts == len(IDS)
    assert client.usage.requests == 0
