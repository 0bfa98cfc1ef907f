"""Signatures, against the values that the algorithm's authors publish, and against botocore's."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rekognition import sigv4
from app.rekognition.faults import IncompleteSignature, MissingToken, WrongSignature
from app.rekognition.sigv4 import Signed

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def signed_by_botocore(
    body: bytes, *, path: str = "/aws", token: str | None = None, secret: str = SECRET
) -> list[tuple[bytes, bytes]]:
    """The headers of a request that botocore signs at this moment."""
    request = botocore.awsrequest.AWSRequest(
        "POST",
        "http://service.example" + path,
        data=body,
        headers={
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": "RekognitionService.ListFaces",
        },
    )
    credentials = botocore.credentials.Credentials("AKID", secret, token)
    botocore.auth.SigV4Auth(credentials, "rekognition", "us-east-1").add_auth(request)
    return [
        (b"host", b"service.example"),
        *((k.lower().encode(), v.encode()) for k, v in request.headers.items()),
    ]


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def check(headers: list[tuple[bytes, bytes]], body: bytes, path: bytes = b"/aws") -> None:
    signed = sigv4.read(headers, now())
    sigv4.verify(signed, SECRET, method="POST", path=path, query=b"", headers=headers, body=body)


def test_the_published_example_of_the_algorithm() -> None:
    # AWS General Reference, "Examples of the complete Signature Version 4 signing process".
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    headers = [
        (b"host", b"iam.amazonaws.com"),
        (b"content-type", b"application/x-www-form-urlencoded; charset=utf-8"),
        (b"x-amz-date", b"20150830T123600Z"),
    ]

    class Iam(Signed):
        @property
        def scope(self) -> str:
            return "20150830/us-east-1/iam/aws4_request"

    signed = Iam(
        "AKIDEXAMPLE",
        "us-east-1",
        "20150830T123600Z",
        ("content-type", "host", "x-amz-date"),
        "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
    )
    sigv4.verify(
        signed,
        secret,
        method="GET",
        path=b"/",
        query=b"Action=ListUsers&Version=2010-05-08",
        headers=headers,
        body=b"",
    )
    with pytest.raises(WrongSignature):
        sigv4.verify(
            signed,
            secret,
            method="GET",
            path=b"/",
            query=b"Action=ListUsers&Version=2010-05-09",
            headers=headers,
            body=b"",
        )


@given(st.binary(max_size=200), st.none() | st.text("abc+/=", min_size=1, max_size=40))
def test_what_botocore_signs_is_accepted(body: bytes, token: str | None) -> None:
    for path in ("/aws", "/aws/", "/aws/v1/"):
        check(signed_by_botocore(body, path=path, token=token), body, path.encode())


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_another_body_is_refused(body: bytes, other: bytes) -> None:
    headers = signed_by_botocore(body)
    if other == body:
        check(headers, other)
    else:
        with pytest.raises(WrongSignature):
            check(headers, other)


def test_another_secret_method_path_or_header_is_refused() -> None:
    headers = signed_by_botocore(b"{}")
    signed = sigv4.read(headers, now())
    good = {"method": "POST", "path": b"/aws", "query": b"", "headers": headers, "body": b"{}"}
    sigv4.verify(signed, SECRET, **good)  # type: ignore[arg-type]
    changed = [(k, b"other" if k == b"host" else v) for k, v in headers]
    for secret, change in (
        (SECRET + "x", {}),
        (SECRET, {"method": "GET"}),
        (SECRET, {"path": b"/aws/"}),
        (SECRET, {"query": b"a=b"}),
        (SECRET, {"headers": changed}),
    ):
        with pytest.raises(WrongSignature):
            sigv4.verify(signed, secret, **{**good, **change})  # type: ignore[arg-type]


def test_the_clock_may_be_five_minutes_off() -> None:
    headers = signed_by_botocore(b"")
    for minutes in (-4.9, 0, 4.9):
        sigv4.read(headers, now() + dt.timedelta(minutes=minutes))
    for minutes in (-5.2, 5.2, 60 * 24 * 365):
        with pytest.raises(WrongSignature, match="X-Amz-Date"):
            sigv4.read(headers, now() + dt.timedelta(minutes=minutes))


def test_the_host_and_what_gives_the_request_its_meaning_must_be_signed() -> None:
    headers = signed_by_botocore(b"")
    with pytest.raises(WrongSignature, match="x-amz-security-token"):
        sigv4.read([*headers, (b"x-amz-security-token", b"1")], now())
    # The SDK for PHP leaves this one out.
    check([*headers, (b"x-amz-user-agent", b"aws-sdk-php/3.1")], b"")
    without = [(k, v.replace(b"host;", b"") if k == b"authorization" else v) for k, v in headers]
    with pytest.raises(WrongSignature, match="host"):
        sigv4.read(without, now())


def test_another_service_is_refused() -> None:
    headers = [
        (k, v.replace(b"/rekognition/", b"/s3/") if k == b"authorization" else v)
        for k, v in signed_by_botocore(b"")
    ]
    with pytest.raises(WrongSignature, match="rekognition"):
        sigv4.read(headers, now())


@given(st.binary(max_size=80), st.binary(max_size=20))
def test_any_header_is_read_or_refused_by_name(authorization: bytes, date: bytes) -> None:
    headers = [(b"host", b"h"), (b"authorization", authorization), (b"x-amz-date", date)]
    with pytest.raises((IncompleteSignature, WrongSignature)):
        sigv4.read(headers, NOW)


def test_an_unsigned_request_is_told_to_sign() -> None:
    with pytest.raises(MissingToken):
        sigv4.read([(b"host", b"h")], NOW)
    twice = [*signed_by_botocore(b""), (b"authorization", b"x")]
    with pytest.raises(MissingToken):
        sigv4.read(twice, NOW)


def test_headers_are_gone_through_once_however_many_are_signed() -> None:
    """7,000 names and 3,200 headers, 30 kB, took seconds before a secret was asked for."""

    class Counted(list[tuple[bytes, bytes]]):
        times = 0

        def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
            self.times += 1
            return super().__iter__()

    headers = Counted([(b"host", b"a"), (b"B", b" x  y "), (b"b", b"z")])
    names = ("host", "b", *(f"x{number}" for number in range(1000)))
    signed = Signed("AKID", "us-east-1", "20260301T120000Z", names, "0" * 64)
    text = sigv4.canonical_request(
        signed, method="POST", path=b"/aws", query=b"", headers=headers, body=b""
    )
    assert text.startswith("POST\n/aws\n\nhost:a\nb:x y,z\nx0:\nx1:\n")
    assert headers.times == 1


def test_a_header_that_is_named_twice_is_refused() -> None:
    headers = dict(signed_by_botocore(b"{}"))
    name = b"authorization" if b"authorization" in headers else b"Authorization"
    headers[name] = headers[name].replace(b"SignedHeaders=", b"SignedHeaders=host;host;")
    with pytest.raises(IncompleteSignature, match="once"):
        check(list(headers.items()), b"{}")
