"""The folder source: what it lists, what it never leaves, and what it cannot look at."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from indexer.sources import folder
from indexer.sources.base import Entry, Gone, SourceUnreadable, Unreadable, Unusable
from indexer.sources.folder import FolderSource


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("b/z.jpg", "b/a.png", "a.jpg", "c.JPG", "b.jpg", ".hidden.jpg", "b/.x/y.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return root


def keys(source: FolderSource, cursor: str | None = None) -> list[str]:
    return [entry.key for page in source.pages(cursor) for entry in page.entries]


def test_a_folder_is_listed_in_a_stable_order_and_from_a_cursor(tree: Path) -> None:
    source = FolderSource(tree)
    every = keys(source)
    assert every == ["a.jpg", "b/a.png", "b/z.jpg", "b.jpg", "c.JPG"]
    for position, key in enumerate(every):
        assert keys(source, key) == every[position + 1 :]
    assert source.total() == 5
    source.close()


def test_a_name_that_cannot_be_stored_takes_no_other_file_s(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`c\\x7f.jpg` was listed as `c?.jpg`, and the picture of that name was never indexed."""
    long = "/".join(["d" * 100] * 3)
    (tree / long).mkdir(parents=True)
    names = ["c?.jpg", "c\n.jpg", "c\x7f.jpg", "c\udce9.jpg", f"{long}/1.jpg", f"{long}/2.jpg"]
    for name in names:
        (tree / name).write_bytes(b"x")
    source = FolderSource(tree)
    (page,) = source.pages(None)
    listed = {entry.key: entry for entry in page.entries}
    assert len(listed) == len(page.entries) == 5 + len(names)
    assert isinstance(listed["c?.jpg"], Entry)
    odd = [entry.key for entry in page.entries if isinstance(entry, Unusable)]
    assert len(odd) == 5
    assert source.absent(odd) == set(odd)
    # Nor does a listing that goes on behind such a name leave another out.
    (tree / "b/a\x01.jpg").write_bytes(b"x")
    monkeypatch.setattr(folder, "PAGE", 2)
    first = next(iter(source.pages(None)))
    assert [isinstance(entry, Entry) for entry in first.entries] == [True, False]
    assert "b/a.png" in keys(source, first.cursor)
    source.close()


@pytest.mark.parametrize(
    "key",
    ["../secret.jpg", "b/../../secret.jpg", "/etc/passwd", "b//a.png", "./a.jpg", "", "..", "b/",
     "a.jpg\0", "link.jpg", "dirlink/secret.jpg", "loop/loop/a.jpg", "b", "%2e%2e/secret.jpg"],
)  # fmt: skip
def test_no_path_leads_out_of_the_root(tree: Path, key: str) -> None:
    (tree / "link.jpg").symlink_to(tree.parent / "secret.jpg")
    (tree / "dirlink").symlink_to(tree.parent)
    (tree / "loop").symlink_to(tree)
    source = FolderSource(tree)
    with pytest.raises((Gone, Unreadable)):
        source.read(Entry(key, key, "1"), max_bytes=100, etag=None, modified=None)
    source.close()


def test_a_file_swapped_for_a_link_or_a_pipe_is_refused(tree: Path) -> None:
    source = FolderSource(tree)
    entry = Entry("a.jpg", "a.jpg", "1")
    assert source.read(entry, max_bytes=100, etag=None, modified=None).data == b"a.jpg"
    (tree / "a.jpg").unlink()
    os.mkfifo(tree / "a.jpg")
    with pytest.raises(Unreadable, match="not a regular file"):
        source.read(entry, max_bytes=100, etag=None, modified=None)
    (tree / "a.jpg").unlink()
    (tree / "a.jpg").symlink_to(tree.parent / "secret.jpg")
    with pytest.raises(Gone):
        source.read(entry, max_bytes=100, etag=None, modified=None)
    # A folder on the way that becomes a link leads nowhere either.
    os.rename(tree / "b", tree.parent / "moved")
    (tree / "b").symlink_to(tree.parent / "moved")
    with pytest.raises(Gone):
        source.read(Entry("b/z.jpg", "b/z.jpg", "1"), max_bytes=100, etag=None, modified=None)
    assert source.absent(["b/z.jpg", "c.JPG"]) == {"b/z.jpg"}
    source.close()


def test_a_file_over_the_cap_is_not_read(tree: Path) -> None:
    (tree / "big.jpg").write_bytes(b"x" * 101)
    source = FolderSource(tree)
    with pytest.raises(Unreadable) as refused:
        source.read(Entry("big.jpg", "big.jpg", "1"), max_bytes=100, etag=None, modified=None)
    assert refused.value.permanent
    source.close()


def test_a_lookup_knows_what_a_listing_knows(tree: Path) -> None:
    (tree / "b" / "notes.txt").write_bytes(b"text")
    (tree / "d.jpg").mkdir()
    (tree / "link.jpg").symlink_to("a.jpg")
    source = FolderSource(tree)
    listed = {entry.key: entry for page in source.pages(None) for entry in page.entries}
    asked = [*listed, ".hidden.jpg", "b/.x/y.jpg", "b/notes.txt", "d.jpg", "gone.jpg", "n" * 300]
    assert source.lookup(asked) == listed
    assert source.absent(asked) == set(asked) - set(listed)
    source.close()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_what_cannot_be_looked_at_is_not_gone(
    tree: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source = FolderSource(tree)
    broken(monkeypatch, "b", number)
    found = source.lookup(["a.jpg", "b/z.jpg", "b/none.jpg"])
    assert isinstance(found["a.jpg"], Entry)
    assert isinstance(found["b/z.jpg"], Unusable)
    assert source.absent(["a.jpg", "b/z.jpg", "b/none.jpg"]) == set()
    source.close()


def test_a_folder_of_somebody_else_stops_nothing(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FolderSource(tree)
    broken(monkeypatch, "b", errno.EACCES)
    listed = {entry.key: entry for page in source.pages(None) for entry in page.entries}
    assert set(listed) == {"a.jpg", "b", "b.jpg", "c.JPG"}
    assert isinstance(unlisted := listed["b"], Unusable)
    assert unlisted.reason == "unreadable_folder"
    broken(monkeypatch, "a.jpg", errno.EACCES)
    assert "a.jpg" in keys(source)
    # Another error than a missing right may hit everything: nothing is known of the rest.
    broken(monkeypatch, "b", errno.EIO)
    with pytest.raises(SourceUnreadable, match="EIO"):
        keys(source)
    source.close()


def test_folders_without_end_are_named_and_left(tree: Path) -> None:
    deep = tree.joinpath(*["d"] * 70)
    deep.mkdir(parents=True)
    (deep / "x.jpg").write_bytes(b"x")
    source = FolderSource(tree)
    listed = {entry.key: entry for page in source.pages(None) for entry in page.entries}
    assert isinstance(listed["/".join(["d"] * 65)], Unusable)
    assert "a.jpg" in listed
    source.close()


def broken(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let whatever is called `name` be impossible to open or to look at."""

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **more: Any) -> Any:
            if path == name:
                raise OSError(number, os.strerror(number))
            return real(path, *rest, **more)

        return call

    monkeypatch.setattr(os, "open", failing(os.open))
    monkeypatch.setattr(os, "stat", failing(os.stat))
