"""What is said of a file of this machine that is not there, and of what went to a bucket."""

import json

import pytest

from p2pcache.agent.bucket.place import bucket_hint
from p2pcache.cli.bucket_sync import _push_summary
from p2pcache.cli.main import main
from p2pcache.sources.s3.errors import CHECK_LOGIN, NO_NETWORK, SET_LOGIN

READS_A_FILE = [
    ["push", "./none"], ["import", "./none"], ["cid", "./none"], ["trace", "--replay", "./none"],
    ["bptr", "show", "./none"], ["bptr", "pull", "./none", "--to", "x"],
    ["bucket", "pull", "org/name", "--config", "./none"], ["bucket", "doctor", "--config", "none"],
]  # fmt: skip


@pytest.mark.parametrize("argv", READS_A_FILE, ids=" ".join)
def test_a_file_that_is_not_there_is_11_in_every_command(home, capsys, argv):
    assert main(argv) == 11
    assert capsys.readouterr().err.startswith("error: no such file or folder: ")
    assert main([*argv, "--json"]) == 11
    assert json.loads(capsys.readouterr().err)["exit_code"] == 11


def test_a_ref_without_a_destination_is_no_file_that_is_missing(home, capsys):
    assert main(["push", "hf://org/name"]) == 2
    assert "error: a ref needs a destination\nhint: " in capsys.readouterr().err


def pushed(**more):
    return {"dry_run": False, "revisions": 1, "unchanged": 0, "sent_blobs": 6,
            "sent_bytes": 2 << 20, **more}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (pushed(), "sent: 1 revision, 6 blobs (2.0 MiB)"),
        (pushed(dry_run=True), "would be sent: 1 revision, 6 blobs (2.0 MiB)"),
        (pushed(unchanged=2), "sent: 1 revision, 6 blobs (2.0 MiB); 2 revisions are there, whole"),
        (
            pushed(sent_blobs=0, sent_bytes=0, unchanged=1),
            "sent: 1 revision, no blob, for the bucket has them; 1 revision is there, whole",
        ),
        (
            pushed(revisions=0, sent_blobs=0, sent_bytes=0, unchanged=1),
            "nothing to send: 1 revision is there, whole",
        ),
    ],
)
def test_a_push_says_what_went_and_what_was_there(answer, said):
    assert _push_summary(answer) == said


def test_hints_of_a_bucket_name_its_own_settings():
    for hint in (SET_LOGIN, CHECK_LOGIN):
        assert "storage.secret_key" in bucket_hint(hint)
        assert "s3." not in bucket_hint(hint)
    assert "storage.endpoint" in bucket_hint(NO_NETWORK)
    assert (bucket_hint(None), bucket_hint("set the clock")) == (None, "set the clock")
