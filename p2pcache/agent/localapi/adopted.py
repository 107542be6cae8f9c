"""What the agent answers on folders of others that it reads in place."""

from __future__ import annotations

from typing import TypedDict


class AdoptedAnswer(TypedDict):
    """A folder. `kind`: `hub`, `ollama` or `folder`. `files`, `bytes`: hashed, and as they were;
    `waiting_*`: to be hashed; `settling`: written to just now, to be looked at again. `left_out`:
    how many files are not taken, by reason. `problem`: why it cannot be looked at. `manifest`: what
    a plain folder is called. `paused`: a pull runs. `public`: all of a Hugging Face cache is for
    others; `kept_files`: how many of it are not, without their hub's word.
    """

    folder: str
    kind: str
    private: bool
    public: bool
    kept_files: int
    files: int
    bytes: int
    waiting_files: int
    waiting_bytes: int
    settling: int
    left_out: dict[str, int]
    problem: str | None
    manifest: str | None
    paused: bool


class AdoptAnswer(AdoptedAnswer):
    """What `adopt` began. `notes`: honest remarks."""

    notes: list[str]


class UnadoptAnswer(TypedDict):
    """A folder that was let go, and how many files of it were read in place."""

    folder: str
    files: int
