"""What is recorded of a resolution, and for whom."""

from __future__ import annotations

import pytest

from p2pcache.content import cid as cids
from p2pcache.content import refs
from p2pcache.content.digests import sha256_digest
from p2pcache.errors import NotFound, Unavailable
from p2pcache.sources.port import KUBO, Credentials, ListedFile, Listing, SourceKind
from p2pcache.store.store import Store
from p2pcache.transfer.resolve import Resolution, ResolveOptions, Resolver
from tests.support.inside import agent_inside
from tests.support.stored import MIB, content, name, root_of, rooted

REF = refs.parse_ref("hf://org/name")
OURS, THEIRS = Credentials(hf_endpoint="https://hub.ours"), Credentials()


class Hubs:
    """Hubs that all have a repository of this name, each with another content."""

    name, kind = "hf", SourceKind.ORIGIN

    def __init__(self) -> None:
        self.up = self.mutable = True
        self.asked: list[str] = []

    def accepts(self, ref: refs.Ref) -> bool:
        return isinstance(ref, refs.HfRef)

    def endpoint(self, ref: refs.Ref, credentials: Credentials) -> str:
        return credentials.hf_endpoint or "https://hub.theirs"

    async def list(self, ref: refs.Ref, credentials: Credentials) -> Listing:
        at = self.endpoint(ref, credentials)
        self.asked.append(at)
        if not self.up:
            raise Unavailable("no route to the hub")
        file = ListedFile("model.bin", 9, sha256_digest(at.encode().ljust(32)[:32]), "model.bin")
        return Listing("hf", at, at, self.mutable, (file,))

    async def locate(self, listing: Listing, key: str, credentials: Credentials):
        raise AssertionError("resolving asks for no bytes")

    async def aclose(self) -> None:
        pass


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def hubs():
    return Hubs()


@pytest.fixture
def resolver(store, hubs):
    return Resolver([hubs], store, ResolveOptions(), lambda: 1000.0)


async def test_what_one_hub_said_is_not_taken_for_anothers_word(resolver, hubs):
    ours = await resolver.resolve(REF, OURS)
    theirs = await resolver.resolve(REF, THEIRS)
    assert (ours.listing.immutable, theirs.listing.immutable) == (
        "https://hub.ours", "https://hub.theirs",
    )  # fmt: skip
    await resolver.resolve(REF, THEIRS)
    assert len(hubs.asked) == 2, "the same hub is not asked again at once"


async def test_what_another_hub_said_is_taken_only_where_ours_cannot_be_asked_and_says_so(
    resolver, hubs
):
    await resolver.resolve(REF, OURS)
    known = await resolver.resolve(REF, THEIRS, offline=True)
    said = "this is what https://hub.ours calls so; https://hub.theirs could not be asked"
    assert known.listing.endpoint == "https://hub.ours"
    assert said in known.notes
    hubs.up = False
    assert said in (await resolver.resolve(REF, THEIRS)).notes
    again = await resolver.resolve(REF, OURS, offline=True)
    assert (again.listing.endpoint, again.notes) == ("https://hub.ours", ())


async def test_a_commit_of_one_hub_is_asked_of_the_other(resolver, hubs):
    commit = refs.parse_ref(f"hf://org/name@{'a' * 40}")
    hubs.mutable = False
    for credentials in (OURS, THEIRS, THEIRS):
        found = await resolver.resolve(commit, credentials)
        assert found.listing.endpoint == hubs.endpoint(commit, credentials)
    assert len(hubs.asked) == 2


async def test_what_a_pull_will_need_is_made_ready_before_an_origin_is_asked_and_only_then(
    resolver, hubs
):
    ready: list[int] = []

    def beside() -> None:
        ready.append(len(hubs.asked))

    with pytest.raises(NotFound):
        await resolver.resolve(REF, OURS, offline=True, beside=beside)
    assert ready == []
    for refresh in (False, False, True):
        await resolver.resolve(REF, OURS, refresh=refresh, beside=beside)
    assert ready == [0], "once, beside the first question: what is recorded may all be here"


async def test_a_part_of_what_has_no_digests_is_not_recorded_as_the_whole(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.json").write_bytes(b"{}")
    (folder / "weights.bin").write_bytes(b"w" * 1000)
    async with agent_inside(tmp_path / "home", resolve_ttl="1h") as inside:
        part = await inside("get", ref=str(folder), include=["*.json"], to=str(tmp_path / "one"))
        assert part["files"] == 1
        with pytest.raises(NotFound):
            await inside("get", ref=str(folder), offline=True)
        whole = await inside("get", ref=str(folder), to=str(tmp_path / "two"))
        assert whole["files"] == 2
        assert (tmp_path / "two" / "weights.bin").read_bytes() == b"w" * 1000
        again = await inside("get", ref=str(folder), offline=True)
        assert (again["files"], again["manifest"]) == (2, whole["manifest"])
        kept = inside.parts.store.ls()
        assert {len(entry.resolutions) for entry in kept} == {0, 1}, "the part has no ref"


async def test_a_refresh_is_the_origins_answer_or_an_error(store, hubs):
    resolver = Resolver([hubs], store, ResolveOptions(ttl_s=0.0), lambda: 1000.0)
    await resolver.resolve(REF, OURS)
    hubs.up = False
    known = await resolver.resolve(REF, OURS)
    assert known.from_record
    assert any("using what was resolved before" in note for note in known.notes)
    with pytest.raises(Unavailable, match="no route to the hub") as caught:
        await resolver.resolve(REF, OURS, refresh=True)
    assert "without --refresh what was resolved before is used" in caught.value.hint


async def test_a_folder_that_is_here_goes_by_its_root_too(tmp_path):
    folder, out = tmp_path / "folder", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.json").write_bytes(b"{}")
    (folder / "sub" / "weights.bin").write_bytes(bytes(2 << 20))
    async with agent_inside(tmp_path / "home") as inside:
        pushed = await inside("push", path=str(folder))
        root = pushed["root"]
        got = await inside("get", ref=f"ipfs://{root}", to=str(out))
        assert (got["manifest"], got["files"]) == (pushed["manifest"], 2)
        assert (out / "sub" / "weights.bin").read_bytes() == bytes(2 << 20)
        part = await inside("get", ref=f"ipfs://{root}/sub", to=str(tmp_path / "part"))
        assert part["files"] == 1
        assert (await inside("pin", ref=f"ipfs://{root}"))["manifest"] == pushed["manifest"]
        await inside("rm", ref=root, force=True)
        with pytest.raises(NotFound) as caught:
            await inside("get", ref=root)
        assert "the CID of its manifest" in caught.value.hint


@pytest.mark.parametrize("named", [False, True], ids=["by its root", "by its sha2-256"])
def test_one_of_the_large_files_of_a_folder_is_not_taken_for_the_folder(resolver, store, named):
    chosen, other = content(MIB + 1, 1), content(MIB + 2, 2)
    files = tuple(
        ListedFile(path, len(data), None, path, root=root_of(data))
        for path, data in (("a", chosen), ("b", other))
    )
    text = f"ipfs://{cids.format_cid(root_of(content(MIB + 3, 3)))}"
    ref = refs.parse_ref(text)
    listing = Listing(KUBO, "", text, False, files)
    asked = Resolution(ref, refs.canonical(ref), listing, None, 1000.0, False)
    blob = rooted(store, chosen)
    resolver.named_by_arrival(asked, {"a": name(store, blob) if named else blob})
    assert resolver.every_unlisted() == []
    assert store.resolutions() == []
    resolver.named_by_arrival(asked, {"a": blob, "b": rooted(store, other)})
    assert [len(one.listing.files) for one in resolver.every_unlisted()] == [2]
