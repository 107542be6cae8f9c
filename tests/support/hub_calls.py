"""Runs inside a huggingface_hub environment: calls as JSON on stdin, answers as JSON on stdout."""

import json
import os
import sys
from pathlib import Path

import huggingface_hub
from huggingface_hub.utils import _shared_blobs
from huggingface_hub.utils._verification import collect_local_files, compute_file_hash


def scan(cache_dir):
    found = huggingface_hub.scan_cache_dir(cache_dir)
    return {
        "warnings": [str(warning) for warning in found.warnings],
        "incomplete": [str(file.file_path) for file in found.incomplete_files],
        "size": found.size_on_disk,
        "repos": {
            f"{repo.repo_type}/{repo.repo_id}": {
                revision.commit_hash: [
                    sorted(revision.refs),
                    sorted(
                        file.file_path.relative_to(revision.snapshot_path).as_posix()
                        for file in revision.files
                    ),
                ]
                for revision in repo.revisions
            }
            for repo in found.repos
        },
    }


def verify(snapshot, expected):
    """The comparison of `hf cache verify`, with the Hub's side given: {path: [algorithm, hex]}."""
    local = collect_local_files(Path(snapshot))
    wrong = [
        path
        for path, (algorithm, digest) in expected.items()
        if path not in local or compute_file_hash(local[path], algorithm) != digest
    ]
    return wrong + sorted(set(local) - set(expected))


def try_to_load(**arguments):
    found = huggingface_hub.try_to_load_from_cache(**arguments)
    return found if found is None or isinstance(found, str) else "no such file"


CALLS = {
    "version": lambda: huggingface_hub.__version__,
    "hub_cache": lambda: huggingface_hub.constants.HF_HUB_CACHE,
    "snapshot_download": huggingface_hub.snapshot_download,
    "hf_hub_download": huggingface_hub.hf_hub_download,
    "try_to_load": try_to_load,
    "scan": scan,
    "verify": verify,
    "publish": _shared_blobs.publish_blob_to_shared_store,
}

if __name__ == "__main__":
    answers = []
    for name, arguments in json.load(sys.stdin):
        try:
            answers.append(CALLS[name](**arguments))
        except Exception as exc:  # noqa: BLE001 - the answer is what the caller asserts on
            answers.append({"error": type(exc).__name__, "text": str(exc)})
    sys.stdout.write(json.dumps(answers))
    sys.stdout.flush()
    os._exit(0)  # no wait for helper threads of the library
