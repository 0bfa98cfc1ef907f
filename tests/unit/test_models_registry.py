"""Package indexes are found where pip and uv find them, and files where the indexes say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from faces.errors import ModelFileError
from faces.models.cards import RegistrySource
from faces.models.registry import Indexes, SourceUnavailable, configured, locate

SOURCE = RegistrySource("Some_Package", "1.0", "some_package-1.0.tar.gz", "0" * 64, 1, "x")
HELP = """  -i, --index-url <url>  Base URL of the Python Package Index (default
                              https://default.test/simple). This should point to
"""


def pip(listing: str = "", *, help_text: str = HELP) -> object:
    def ask(arguments: Sequence[str]) -> str:
        return listing if arguments[0] == "config" else help_text

    return ask


@pytest.mark.parametrize(
    ("environ", "listing", "expected"),
    [
        ({}, "", ["https://default.test/simple"]),
        ({}, "global.index-url='https://g.test/simple'", ["https://g.test/simple"]),
        (
            {},
            "download.index-url='https://d.test/s'\nglobal.index-url='https://g.test/s'",
            ["https://d.test/s"],
        ),
        (
            {"UV_INDEX_URL": "https://uv.test/s"},
            "global.index-url='https://g.test/s'",
            ["https://uv.test/s"],
        ),
        ({"UV_DEFAULT_INDEX": "corp=https://uv.test/s"}, "", ["https://uv.test/s"]),
        (
            {"PIP_INDEX_URL": "https://p.test/s", "UV_INDEX_URL": "https://uv.test/s"},
            "global.index-url='https://g.test/s'",
            ["https://p.test/s"],
        ),
        (
            {
                "PIP_INDEX_URL": "https://p.test/s",
                "PIP_EXTRA_INDEX_URL": "https://e.test/s https://f.test/s",
            },
            "",
            ["https://p.test/s", "https://e.test/s", "https://f.test/s"],
        ),
        (
            {"PIP_INDEX_URL": "/srv/simple"},
            "global.extra-index-url='file:///srv/more'",
            ["file:///srv/simple", "file:///srv/more"],
        ),
    ],
)
def test_indexes_are_those_that_pip_and_uv_would_use(
    environ: dict[str, str], listing: str, expected: list[str]
) -> None:
    assert list(configured(environ, pip(listing)).indexes) == expected


def test_certificates_proxy_and_links_come_from_pip_too() -> None:
    listing = (
        "global.cert='/etc/one.pem'\nglobal.proxy='http://proxy.test:1'\nglobal.find-links='/w'"
    )
    found = configured({"PIP_CERT": "/etc/two.pem"}, pip(listing))
    assert (found.certificates, found.proxy) == ("/etc/two.pem", "http://proxy.test:1")
    assert found.links == ("file:///w",)


def test_no_index_asks_the_links_only() -> None:
    found = configured({"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/w"}, pip())
    assert (found.indexes, found.links) == ((), ("file:///w",))


def test_without_pip_and_without_settings_the_error_names_the_setting() -> None:
    with pytest.raises(ModelFileError, match="PIP_INDEX_URL"):
        configured({}, pip(help_text=""))


def served(pages: dict[str, tuple[str, str]]) -> object:
    def fetch(url: str, accept: str) -> tuple[bytes, str, str]:
        assert "application/vnd.pypi.simple.v1+json" in accept
        if url not in pages:
            raise SourceUnavailable("404")
        body, media_type = pages[url]
        return body.encode(), media_type, url

    return fetch


JSON = "application/vnd.pypi.simple.v1+json"


@pytest.mark.parametrize(
    ("body", "media_type", "expected"),
    [
        (
            json.dumps({"files": [{"filename": "some-package-1.0.tar.gz", "url": "../../f/a"}]}),
            JSON,
            "https://i.test/f/a",
        ),
        (
            '<a href="../../f/some_package-1.0.tar.gz#sha256=ab">x</a>',
            "text/html",
            "https://i.test/f/some_package-1.0.tar.gz#sha256=ab",
        ),
        (
            '<A data-x="1" HREF="https://files.test/some_package-1.0.tar.gz">x</A>',
            "text/html; charset=utf-8",
            "https://files.test/some_package-1.0.tar.gz",
        ),
    ],
)
def test_a_file_is_found_on_json_and_html_pages(body: str, media_type: str, expected: str) -> None:
    pages = {"https://i.test/simple/some-package/": (body, media_type)}
    assert locate(SOURCE, Indexes(("https://i.test/simple/",)), served(pages)) == expected


def test_the_next_index_is_asked_when_one_lacks_the_file() -> None:
    page = json.dumps({"files": [{"filename": "some_package-1.0.tar.gz", "url": "/a"}]})
    pages = {
        "https://one.test/some-package/": ('{"files": []}', JSON),
        "https://three.test/some-package/": (page, JSON),
    }
    indexes = Indexes(("https://one.test", "https://two.test", "https://three.test"))
    assert locate(SOURCE, indexes, served(pages)) == "https://three.test/a"


def test_a_password_goes_to_the_index_host_only_and_into_no_message() -> None:
    index = "https://me:secret@i.test/simple"
    same = json.dumps(
        {"files": [{"filename": "some_package-1.0.tar.gz", "url": "https://i.test/a"}]}
    )
    other = same.replace("https://i.test/a", "https://files.test/a")
    page = f"{index}/some-package/"
    assert locate(SOURCE, Indexes((index,)), served({page: (same, JSON)})) == (
        "https://me:secret@i.test/a"
    )
    assert (
        locate(SOURCE, Indexes((index,)), served({page: (other, JSON)})) == "https://files.test/a"
    )
    with pytest.raises(SourceUnavailable) as caught:
        locate(SOURCE, Indexes((index,)), served({}))
    assert "secret" not in caught.value.detail
    assert "some_package-1.0.tar.gz" in caught.value.detail


def test_local_indexes_are_read_with_and_without_a_page(tmp_path: Path) -> None:
    with_page = tmp_path / "a" / "some-package"
    with_page.mkdir(parents=True)
    (with_page / "index.html").write_text('<a href="../../files/some_package-1.0.tar.gz">x</a>')
    bare = tmp_path / "b" / "some-package"
    bare.mkdir(parents=True)
    (bare / "some_package-1.0.tar.gz").write_bytes(b"")
    links = tmp_path / "c"
    links.mkdir()
    (links / "some_package-1.0.tar.gz").write_bytes(b"")
    expected = {
        (tmp_path / "a").as_uri(): (tmp_path / "files/some_package-1.0.tar.gz").as_uri(),
        (tmp_path / "b").as_uri(): (bare / "some_package-1.0.tar.gz").as_uri(),
    }
    for index, file in expected.items():
        assert locate(SOURCE, Indexes((index,)), served({})) == file
    found = locate(SOURCE, Indexes((), (links.as_uri(),)), served({}))
    assert found == (links / "some_package-1.0.tar.gz").as_uri()
