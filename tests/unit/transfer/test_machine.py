"""The pull machine against every outcome that chance can think of, in microseconds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pcache.lanes.orders import BLOCK_BYTES, Fault, FaultKind
from p2pcache.sources.port import SourceKind
from p2pcache.transfer import events as ev
from p2pcache.transfer.machine import Download
from p2pcache.transfer.machine.owners import OwnerOptions, Owners
from p2pcache.transfer.policy import TransferOptions
from tests.support.machine_world import World

MIB = BLOCK_BYTES
OPTIONS = TransferOptions(patience_s=60.0)


def blobs(*sizes: int) -> list[ev.BlobSpec]:
    return [ev.BlobSpec(i, size, size <= MIB) for i, size in enumerate(sizes)]


def machine(
    *sizes: int,
    streams: int = 2,
    sources: int = 1,
    options: TransferOptions = OPTIONS,
    owners: Owners | None = None,
):
    d = Download(
        blobs(*sizes),
        piece_bytes=2 * MIB,
        streams=streams,
        options=options,
        chance=lambda: 0.5,
        now=0.0,
        owners=owners,
    )
    out: list[ev.Action] = []
    for n in range(sources):
        out += d.handle(ev.SourceUp(f"s{n}", SourceKind.ORIGIN, 8), 0.0)
    return d, out


def fault(kind: FaultKind, **more: float) -> Fault:
    return Fault(kind, kind.value, **more)


def opened(d: Download, out: list[ev.Action], sizes: tuple[int, ...]) -> list[ev.Action]:
    more: list[ev.Action] = []
    for action in out:
        if isinstance(action, ev.Open):
            blocks = -(-sizes[action.blob] // MIB)
            more += d.handle(ev.Opened(action.blob, bytes(blocks)), 0.0)
    return [a for a in out if not isinstance(a, ev.Open)] + more


def jobs(out: list[ev.Action]) -> list[ev.Job]:
    return [a.job for a in out if isinstance(a, ev.Fetch)]


def ended(job: ev.Job, *, done: int | None = None, why: Fault | None = None, **more) -> ev.Ended:
    done = job.end if done is None else done
    return ev.Ended(job, done, done - job.start, 0.1, why, **more)


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(
        st.sampled_from([0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB, 40 * MIB + 3]), max_size=6
    ),
    sources=st.integers(1, 3),
    faults=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
)
def test_every_pull_ends_and_keeps_its_promises(seed, sizes, sources, faults):
    world = World(seed, sizes, sources, faults)
    world.run()
    if faults == 0.0:
        assert isinstance(world.end, ev.Finished)


def test_nothing_wanted_is_finished_at_once():
    _, out = machine()
    assert out == [ev.Finished()]


def test_two_streams_get_disjoint_runs_of_whole_pieces():
    sizes = (64 * MIB,)
    d, out = machine(*sizes)
    first, second = jobs(opened(d, out, sizes))
    assert first.end == second.start
    assert first.start == 0
    assert (first.end - first.start) % (2 * MIB) == 0


def test_runs_get_shorter_towards_the_end():
    sizes = (100 * MIB,)
    d, out = machine(*sizes)
    queue = jobs(opened(d, out, sizes))
    lengths = []
    while queue:
        job = queue.pop(0)
        lengths.append(job.end - job.start)
        queue += jobs(d.handle(ended(job), 1.0))
    assert sum(lengths) == 100 * MIB
    assert max(lengths) == 16 * MIB
    assert lengths[-1] == 2 * MIB


def longest_run(d: Download, out: list[ev.Action], seconds: float) -> int:
    """Of a pull of 400 MiB where every so long a request ends."""
    queue, longest, now = jobs(opened(d, out, (400 * MIB,))), 0, 0.0
    while queue:
        job = queue.pop(0)
        longest = max(longest, job.end - job.start)
        now += seconds
        brought = ev.Ended(job, job.end, job.end - job.start, seconds, None)
        queue += jobs(d.handle(brought, now))
    return longest


def test_an_origin_that_only_we_ask_gets_longer_requests_once_it_is_fast():
    assert longest_run(*machine(400 * MIB), seconds=0.02) == 64 * MIB
    assert longest_run(*machine(400 * MIB), seconds=2.0) == 16 * MIB


def test_where_peers_are_an_origin_is_asked_for_no_more_at_once_than_they():
    d, out = machine(400 * MIB)
    out += d.handle(ev.SourceUp("peer", SourceKind.PEER, 8, frozenset()), 0.0)
    assert longest_run(d, out, seconds=0.02) == 16 * MIB


def test_where_others_may_join_an_origin_is_asked_for_no_more_at_once():
    owners = Owners("me", ["me"], OwnerOptions(), 0.0)
    owners.add_blob(0, b"\x12\x20" + bytes(32))
    assert longest_run(*machine(400 * MIB, owners=owners), seconds=0.02) <= 16 * MIB


def test_a_verified_prefix_is_kept_and_only_the_rest_is_asked_again():
    sizes = (4 * MIB,)
    d, out = machine(*sizes, streams=1)
    (job,) = jobs(opened(d, out, sizes))
    d.handle(ended(job, done=job.start + MIB, why=fault(FaultKind.UNAVAILABLE)), 1.0)
    (again,) = jobs(d.handle(ev.Tick(), 100.0))
    assert again.start == job.start + MIB


def test_a_failing_source_is_left_alone_and_then_tried_again():
    sizes = (4 * MIB,)
    d, out = machine(*sizes, streams=1)
    (job,) = jobs(opened(d, out, sizes))
    out = d.handle(ended(job, done=0, why=fault(FaultKind.UNAVAILABLE)), 1.0)
    assert not jobs(out)
    (wake,) = [a for a in out if isinstance(a, ev.Wake)]
    assert 1.0 < wake.at <= 1.5
    assert jobs(d.handle(ev.Tick(), wake.at))


def test_retry_after_is_honoured_and_capped():
    sizes = (4 * MIB,)
    for asked, least, most in ((7.0, 8.0, 10.0), (1e9, 300.0, 340.0)):
        d, out = machine(*sizes, streams=1, options=TransferOptions(patience_s=1e12))
        (job,) = jobs(opened(d, out, sizes))
        why = fault(FaultKind.UNAVAILABLE, retry_after_s=asked)
        out = d.handle(ended(job, done=0, why=why), 1.0)
        (wake,) = [a for a in out if isinstance(a, ev.Wake)]
        assert least <= wake.at <= most


@pytest.mark.parametrize("kind", [FaultKind.DENIED, FaultKind.NOT_FOUND, FaultKind.SPENT])
def test_a_permanent_answer_is_not_repeated_and_ends_the_pull(kind):
    sizes = (4 * MIB,)
    d, out = machine(*sizes, streams=1)
    (job,) = jobs(opened(d, out, sizes))
    (failed,) = d.handle(ended(job, done=0, why=fault(kind)), 1.0)
    assert isinstance(failed, ev.Failed)
    assert failed.faults[0][1].kind is kind


def test_an_origin_that_is_others_turn_is_asked_again_soon_however_often():
    sizes = (4 * MIB,)
    d, out = machine(*sizes, streams=1)
    (job,) = jobs(opened(d, out, sizes))
    now = 1.0
    for _ in range(20):
        why = fault(FaultKind.TURN, retry_after_s=250.0)
        out = d.handle(ended(job, done=0, why=why), now)
        (wake,) = [a for a in out if isinstance(a, ev.Wake)]
        assert now + 0.5 <= wake.at <= now + 1.5
        now = wake.at
        (job,) = jobs(d.handle(ev.Tick(), now))
    out = d.handle(ended(job, done=0, why=why), now + 200.0)
    assert not any(isinstance(a, ev.Failed) for a in out), "patience is for who may ask"


def test_another_source_takes_over_what_one_does_not_have():
    sizes = (4 * MIB,)
    d, out = machine(*sizes, streams=1, sources=2)
    (job,) = jobs(opened(d, out, sizes))
    (other,) = jobs(d.handle(ended(job, done=0, why=fault(FaultKind.NOT_FOUND)), 1.0))
    assert other.source != job.source


def test_a_peer_is_asked_before_the_origin():
    sizes = (4 * MIB,)
    d, out = machine(*sizes, streams=1)
    d.handle(ev.SourceUp("peer", SourceKind.PEER, 4), 0.0)
    (job,) = jobs(opened(d, out, sizes))
    assert job.source == "peer"


def test_a_source_without_ranges_is_asked_for_the_whole_body_once():
    sizes = (40 * MIB,)
    d, out = machine(*sizes, streams=2)
    first, second = jobs(opened(d, out, sizes))
    out = d.handle(ended(first, done=first.start, why=fault(FaultKind.RANGE_IGNORED)), 1.0)
    assert not jobs(out), "the other ranged request is still open"
    out = d.handle(ended(second, done=second.start, why=fault(FaultKind.RANGE_IGNORED)), 1.0)
    (whole,) = jobs(out)
    assert whole.whole
    assert (whole.start, whole.end) == (0, 40 * MIB)


def test_a_wrong_digest_has_everything_compared_and_then_names_the_source():
    sizes = (4 * MIB,)
    d, out = machine(*sizes, streams=1)
    queue = jobs(opened(d, out, sizes))
    while queue:
        out = d.handle(ended(queue.pop(0)), 1.0)
        queue += jobs(out)
    assert out[0] == ev.Digest(0, again=False)
    queue = jobs(d.handle(ev.Digested(0, False, "wrong"), 1.0))
    assert all(job.compare for job in queue)
    while queue:
        out = d.handle(ended(queue.pop(0)), 2.0)
        queue += jobs(out)
    assert out[0] == ev.Digest(0, again=True)
    out = d.handle(ev.Digested(0, False, "wrong again"), 3.0)
    assert ev.Banned("s0", "wrong again") in out
    assert isinstance(out[-1], ev.Failed)


@settings(max_examples=200, deadline=None)
@given(
    lies=st.lists(
        st.lists(st.sampled_from(["a lie", "another lie", ""]), min_size=4, max_size=4),
        min_size=1, max_size=3,
    ),
    order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_one_honest_source_is_found_among_liars_whoever_is_asked_first(lies, order):
    """`lies`: what each source sends instead of each block; one more sends the truth."""
    sizes, count = (4 * MIB,), 4
    sent = [*lies, [""] * count]
    order.shuffle(sent)
    d, out = machine(*sizes, streams=3, sources=len(sent))
    disk, queue, now, turns = [""] * count, jobs(opened(d, out, sizes)), 1.0, 0
    while not isinstance(out[-1] if out else None, ev.Finished):
        assert not any(isinstance(one, ev.Failed) for one in out), "an honest one is left"
        now, turns = now + 0.1, turns + 1
        assert turns < 400, "it never ends"
        if any(isinstance(one, ev.Digest) for one in out):
            told: ev.Event = ev.Digested(0, disk == [""] * count, "wrong")
        elif queue:
            job = queue.pop(order.randrange(len(queue)))
            blocks = range(job.start // MIB, job.end // MIB)
            mine = sent[int(job.source[1:])]
            changed = tuple(b for b in blocks if job.compare and disk[b] != mine[b])
            for block in blocks:
                disk[block] = mine[block]
            told = ended(job, changed=changed)
        else:
            told = ev.Tick()
        out = d.handle(told, now)
        queue += jobs(out)


def test_a_compare_that_mends_the_blob_completes_it():
    sizes = (2 * MIB,)
    d, out = machine(*sizes, streams=1)
    (job,) = jobs(opened(d, out, sizes))
    d.handle(ended(job), 1.0)
    (job,) = jobs(d.handle(ev.Digested(0, False, "wrong"), 1.0))
    d.handle(ended(job, changed=(1,)), 1.0)
    assert d.handle(ev.Digested(0, True), 1.0) == [ev.Finished()]
    assert d.statistics().duplicate_bytes == MIB


def gives_up_at(d: Download, out: list[ev.Action], now: float) -> float:
    """When a pull fails whose only source refuses each request at once."""
    for _ in range(1000):
        if isinstance(out[-1], ev.Failed):
            return now
        if running := jobs(out):
            out = d.handle(ended(running[0], done=0, why=fault(FaultKind.UNAVAILABLE)), now)
        else:
            (wake,) = [a for a in out if isinstance(a, ev.Wake)]
            now = wake.at
            out = d.handle(ev.Tick(), now)
    pytest.fail("it never gave up")


def test_patience_ends_when_nothing_comes_any_more():
    sizes = (4 * MIB,)
    d, out = machine(*sizes, streams=1)
    assert 60.0 <= gives_up_at(d, opened(d, out, sizes), 0.0) < 120.0


def test_patience_does_not_run_while_this_process_stands_still():
    sizes = (4 * MIB,)
    d, out = machine(*sizes, streams=1)
    (job,) = jobs(opened(d, out, sizes))
    d.handle(ended(job, done=0, why=fault(FaultKind.UNAVAILABLE)), 0.0)
    stopped_s = 2 * OPTIONS.patience_s
    out = d.handle(ev.StoodStill(stopped_s), stopped_s)
    assert 60.0 <= gives_up_at(d, out, stopped_s) - stopped_s < 120.0


def test_patience_ends_also_when_sources_take_turns_in_failing():
    """Each answers after 9 s that it cannot: some request is always on its way."""
    sizes = (4 * MIB,)
    d, out = machine(*sizes, streams=1, sources=8)
    (job,) = jobs(opened(d, out, sizes))
    now = 0.0
    for _ in range(100):
        now += 9.0
        out = d.handle(ended(job, done=0, why=fault(FaultKind.UNAVAILABLE)), now)
        if any(isinstance(action, ev.Failed) for action in out):
            break
        (job,) = jobs(out)
    assert OPTIONS.patience_s <= now < OPTIONS.patience_s + 3 * 9.0


def test_who_stood_still_longer_than_its_patience_tries_once_more():
    sizes = (4 * MIB,)
    d, out = machine(*sizes, streams=1, sources=2)
    (job,) = jobs(opened(d, out, sizes))
    now = 3 * OPTIONS.patience_s
    out = d.handle(ended(job, done=0, why=fault(FaultKind.UNAVAILABLE)), now)
    (job,) = jobs(out)
    assert not any(isinstance(action, ev.Failed) for action in out)
    out = d.handle(ended(job), now + 2.0)
    assert not any(isinstance(action, ev.Failed) for action in out)


def test_patience_outlasts_the_longest_wait_that_a_source_asks_for():
    sizes = (4 * MIB,)
    d, out = machine(*sizes, streams=1)
    (job,) = jobs(opened(d, out, sizes))
    parked = Fault(FaultKind.UNAVAILABLE, "busy", retry_after_s=250.0)
    out = d.handle(ended(job, done=0, why=parked), 0.0)
    (wake,) = [a for a in out if isinstance(a, ev.Wake)]
    assert 250.0 <= wake.at < 310.0
    assert jobs(d.handle(ev.Tick(), wake.at)), "asked again when it said to come back"


def test_small_blobs_travel_in_batches_shared_by_the_streams():
    _d, out = machine(*([1000] * 100), streams=2)
    batches = [a.batch for a in out if isinstance(a, ev.FetchBatch)]
    assert len(batches) == 2
    assert len(batches[0].blobs) == 50
    assert not set(batches[0].blobs) & set(batches[1].blobs)


def test_an_abort_of_ours_does_not_lower_a_source():
    sizes = (4 * MIB,)
    d, out = machine(*sizes, streams=1)
    (job,) = jobs(opened(d, out, sizes))
    out = d.handle(ended(job, done=0, why=fault(FaultKind.UNAVAILABLE), blame=False), 1.0)
    assert jobs(out), "asked again at once"


def test_a_blob_whose_versions_nobody_can_tell_apart_comes_in_one_stream():
    d = Download(
        [ev.BlobSpec(0, 4 * MIB, False, whole=True)],
        piece_bytes=MIB,
        streams=2,
        options=OPTIONS,
        chance=lambda: 0.5,
        now=0.0,
    )
    out = opened(d, d.handle(ev.SourceUp("s", SourceKind.ORIGIN, 8), 0.0), (4 * MIB,))
    (job,) = jobs(out)
    assert (job.start, job.end, job.whole, job.compare) == (0, 4 * MIB, True, False)
    d.handle(ended(job, done=2 * MIB, why=fault(FaultKind.UNAVAILABLE)), 1.0)
    (again,) = jobs(d.handle(ev.Tick(), 5.0))
    assert (again.start, again.whole, again.compare) == (0, True, True)
    out = d.handle(ended(again, changed=(1, 2, 3)), 6.0)
    assert ev.Digest(0, again=True) in out, (
        "a hash that ran behind the first stream is worth nothing"
    )


def test_nothing_is_opened_that_nobody_can_bring():
    """Opening makes room, at the cost of what is here."""
    d, out = machine(4 * MIB, 4 * MIB, sources=0)
    out = d.handle(ev.Tick(), 0.0)
    assert [type(a) for a in out] == [ev.Failed]
    assert out[0].blobs == (0, 1)


def test_what_only_some_can_bring_is_opened_when_they_come():
    d, out = machine(4 * MIB, 4 * MIB, sources=0)
    out = d.handle(ev.SourceUp("s", SourceKind.PEER, 8, frozenset({1})), 0.0)
    assert out[-1] == ev.Failed((0,), ())
    assert ev.Open(0) not in out


def events_looked_at(count: int, size: int) -> int:
    """How often a pull of so many blobs looks at one of them to decide what is next."""
    looks = 0

    class Counted(Download):
        def _has_source(self, blob: int) -> bool:
            nonlocal looks
            looks += 1
            return super()._has_source(blob)

        def _needs_source(self, blob) -> bool:
            nonlocal looks
            looks += 1
            return super()._needs_source(blob)

    d = Counted(
        blobs(*[size] * count), piece_bytes=MIB, streams=2, options=OPTIONS,
        chance=lambda: 0.5, now=0.0,
    )  # fmt: skip
    todo: list[ev.Event] = [ev.SourceUp("s", SourceKind.ORIGIN, 16)]
    finished = False
    while todo:
        for action in d.handle(todo.pop(0), 1.0):
            match action:
                case ev.FetchBatch(batch):
                    todo.append(ev.BatchEnded(batch, (None,) * len(batch.blobs), 1, 1.0))
                case ev.Open(blob):
                    todo.append(ev.Opened(blob, bytes(-(-size // MIB))))
                case ev.Fetch(job):
                    todo.append(ended(job))
                case ev.Digest(blob):
                    todo.append(ev.Digested(blob, True))
                case ev.Finished():
                    finished = True
    assert finished
    return looks


@pytest.mark.parametrize("size", [20_000, 2 * MIB])
def test_the_work_of_a_pull_grows_with_its_files_and_not_with_their_square(size: int):
    few, many = events_looked_at(300, size), events_looked_at(3_000, size)
    assert many <= 12 * few
