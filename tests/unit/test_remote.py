"""The client of a separate encoder service, against answers as that service gives them."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx2
import pytest
from PIL import Image

from faces.breaker import Breaker
from faces.errors import (
    Busy,
    EncoderUnavailable,
    InvalidImage,
    LikenessError,
    Loading,
    ModelMismatch,
    UnsupportedImage,
)
from faces.remote import Expected, RemotePipeline
from faces.types import Analysis, Box, Face

Handler = Callable[[httpx2.Request], httpx2.Response]
MODELS = {"items": [{"key": "m", "active": True, "dimensions": 4, "sha256": "b" * 64}]}


def photo(width: int = 64, height: int = 48) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "grey").save(out, "JPEG")
    return out.getvalue()


def face(x: float = 1, embedding: Sequence[float] | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "box": {"x": x, "y": 2, "width": 10, "height": 12},
        "confidence": 0.9,
        "quality": 0.5,
        "reasons": ["low_sharpness"],
        "landmarks": [[1, 2], [3, 2], [2, 3], [1, 4], [3, 4]],
    }
    return entry if embedding is None else {**entry, "embedding": list(embedding)}


def embedded(*faces: dict[str, Any], model: str = "m") -> dict[str, Any]:
    return {
        "model": model,
        "build": "b" * 64,
        "dimensions": 4,
        "faces": list(faces),
        "timings_ms": {"decode": 1, "detect": 2, "encode": 3},
    }


def problem(status: int, code: str, **more: Any) -> httpx2.Response:
    return httpx2.Response(status, json={"code": code, "detail": "It is so.", **more})


class Local:
    """Makes thumbnails; closing is noted."""

    closed = False

    def thumbnail(self, data: bytes, max_side: int = 320) -> bytes:
        return b"thumbnail"

    def crop(self, data: bytes, box: Box) -> bytes:
        return b"crop"

    def close(self) -> None:
        self.closed = True


class Service:
    """The other instance: answers what the test queued for a path, the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {"/v1/models": [MODELS]}
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        queue = self.answers[request.url.path]
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx2.Response) else httpx2.Response(200, json=answer)

    @property
    def paths(self) -> list[str]:
        return [request.url.path for request in self.requests]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def pipeline(service: Service) -> Iterator[RemotePipeline]:
    made = RemotePipeline(
        "http://encoder/",
        "the-key",
        Expected("m", 4),
        Local(),
        transport=httpx2.MockTransport(service),
        breaker=Breaker(failures=3, pause=60),
        sleep=lambda seconds: None,
    )
    yield made
    made.close()


def test_a_photo_becomes_faces_with_vectors(service: Service, pipeline: RemotePipeline) -> None:
    service.answers["/v1/embed"] = [embedded(face(embedding=[0, 1, 0, 0]))]
    analysis = pipeline.analyse(photo())
    (found,) = analysis.faces
    assert (analysis.picture.width, analysis.picture.height) == (64, 48)
    assert (analysis.model, analysis.build) == ("m", "b" * 64)
    assert found.detection.box == Box(1, 2, 10, 12)
    assert (found.quality, found.reasons) == (0.5, ("low_sharpness",))
    assert found.embedding is not None
    assert found.embedding.tolist() == [0, 1, 0, 0]
    assert analysis.timings_ms == {"decode": 1, "detect": 2, "encode": 3}
    assert service.requests[0].headers["X-API-Key"] == "the-key"


def test_only_chosen_faces_are_encoded(service: Service, pipeline: RemotePipeline) -> None:
    service.answers["/v1/detect"] = [{"faces": [face(1), face(30)], "timings_ms": {"detect": 2}}]
    service.answers["/v1/embed"] = [embedded(face(30, [1, 0, 0, 0]))]
    analysis = pipeline.analyse(photo(), choose=lambda faces: [1])
    assert [one.embedding is not None for one in analysis.faces] == [False, True]
    assert [one.detection.box.x for one in analysis.faces] == [1, 30]
    sent = service.requests[-1].read().decode("latin-1")
    assert json.dumps({"x": 30.0, "y": 2.0, "width": 10.0, "height": 12.0}) in sent


def test_a_photo_without_faces_is_not_sent_twice(
    service: Service, pipeline: RemotePipeline
) -> None:
    service.answers["/v1/detect"] = [{"faces": []}]

    def none(faces: Sequence[Face]) -> Sequence[int]:
        return []

    assert pipeline.analyse(photo(), choose=none).faces == ()
    assert "/v1/embed" not in service.paths


def test_a_photo_that_its_header_condemns_is_not_sent(
    service: Service, pipeline: RemotePipeline
) -> None:
    with pytest.raises(UnsupportedImage):
        pipeline.analyse(b"this is a text file, whatever its name says")
    with pytest.raises(InvalidImage):
        pipeline.analyse(photo(8, 8))
    assert service.requests == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem(503, "loading"), Loading),
        (problem(503, "busy"), Busy),
        (problem(503, "encoder_unavailable"), EncoderUnavailable),
        (problem(500, "internal_error"), EncoderUnavailable),
        (problem(401, "unauthorized"), EncoderUnavailable),
        (problem(409, "model_mismatch"), ModelMismatch),
        (problem(422, "invalid_image", reason="truncated"), InvalidImage),
        (httpx2.Response(502, text="<html>"), EncoderUnavailable),
        (httpx2.ConnectError("refused"), EncoderUnavailable),
        (httpx2.ReadTimeout("slow"), EncoderUnavailable),
        (embedded(face(embedding=[1, 0, 0]), model="m"), EncoderUnavailable),
        (embedded(face(embedding=[9, 0, 0, 0])), EncoderUnavailable),
        (embedded(face()), EncoderUnavailable),
        ({"model": "m"}, EncoderUnavailable),
        (embedded(face(embedding=[[1], "x"])), EncoderUnavailable),  # type: ignore[list-item]
        ({"model": "m", "faces": [{"embedding": [1, 0, 0, 0]}]}, EncoderUnavailable),
        (embedded(face(embedding=[1, 0, 0, 0]), model="other"), ModelMismatch),
        (httpx2.Response(200, text="[" * 200_000), EncoderUnavailable),
        (embedded(face(embedding=[10**400, 0, 0, 0])), EncoderUnavailable),
        (embedded(face(embedding=[1, 0, 0, 0])) | {"timings_ms": [1]}, EncoderUnavailable),
        (
            embedded(face(embedding=[1, 0, 0, 0])) | {"timings_ms": {"decode": "x"}},
            EncoderUnavailable,
        ),
        (
            httpx2.Response(200, text=json.dumps(embedded(face(math.nan, [1, 0, 0, 0])))),
            EncoderUnavailable,
        ),
        (
            httpx2.Response(200, text=json.dumps(embedded(face(math.inf, [1, 0, 0, 0])))),
            EncoderUnavailable,
        ),
        (embedded(face(embedding=[1, 0, 0, 0]) | {"quality": 10**400}), EncoderUnavailable),
        (
            embedded(
                face(embedding=[1, 0, 0, 0]) | {"box": {"x": 1, "y": 2, "width": -5, "height": 12}}
            ),
            EncoderUnavailable,
        ),
    ],
)
def test_every_other_answer_is_an_error_of_ours(
    service: Service, pipeline: RemotePipeline, answer: Any, error: type[LikenessError]
) -> None:
    service.answers["/v1/embed"] = [answer]
    with pytest.raises(error):
        pipeline.analyse(photo())


def test_the_reason_of_a_broken_picture_is_kept(service: Service, pipeline: RemotePipeline) -> None:
    service.answers["/v1/embed"] = [problem(422, "invalid_image", reason="truncated")]
    with pytest.raises(InvalidImage) as caught:
        pipeline.analyse(photo())
    assert caught.value.reason == "truncated"


def test_a_hiccup_is_tried_again(service: Service, pipeline: RemotePipeline) -> None:
    good = embedded(face(embedding=[1, 0, 0, 0]))
    service.answers["/v1/embed"] = [httpx2.ConnectError("refused"), problem(503, "busy"), good]
    assert len(pipeline.analyse(photo()).faces) == 1
    assert service.paths == ["/v1/embed"] * 3


def test_a_picture_at_fault_is_not_tried_again(service: Service, pipeline: RemotePipeline) -> None:
    service.answers["/v1/embed"] = [problem(422, "invalid_image", reason="truncated")]
    with pytest.raises(InvalidImage):
        pipeline.analyse(photo())
    assert service.paths == ["/v1/embed"]


def test_after_failures_in_a_row_it_is_left_alone(
    service: Service, pipeline: RemotePipeline
) -> None:
    service.answers["/v1/embed"] = [httpx2.ConnectError("refused")]
    with pytest.raises(EncoderUnavailable):
        pipeline.analyse(photo())
    asked = len(service.requests)
    with pytest.raises(EncoderUnavailable) as caught:
        pipeline.analyse(photo())
    assert len(service.requests) == asked
    assert caught.value.retry_after > 50


def test_the_check_names_a_service_with_another_model(
    service: Service, pipeline: RemotePipeline
) -> None:
    other = {"items": [{"key": "other", "active": True, "dimensions": 4, "sha256": "b" * 64}]}
    service.answers["/v1/models"] = [other]
    with pytest.raises(ModelMismatch, match="FACE_MODEL=m"):
        pipeline.check()


@pytest.mark.parametrize("answer", [{"data": []}, {"items": None}, {"items": ["x"]}])
def test_the_check_names_what_is_no_encoder_service(
    service: Service, pipeline: RemotePipeline, answer: dict[str, Any]
) -> None:
    """Another service with models at that path was said to be loading, for ever."""
    service.answers["/v1/models"] = [answer]
    with pytest.raises(EncoderUnavailable, match="something else"):
        pipeline.check()


def test_the_check_does_not_ask_at_every_call(service: Service, pipeline: RemotePipeline) -> None:
    pipeline.check()
    pipeline.check()
    assert service.paths == ["/v1/models"]
    assert pipeline.build == "b" * 64


def items(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"items": [{"embedded": None, "error": None, **entry} for entry in entries]}


def test_several_photos_travel_in_one_request(service: Service, pipeline: RemotePipeline) -> None:
    service.answers["/v1/embed/batch"] = [
        items(
            {"embedded": embedded(face(1, [1, 0, 0, 0]))},
            {"error": {"code": "invalid_image", "reason": "truncated", "detail": "It ends."}},
            {"embedded": embedded(face(3, [0, 1, 0, 0]))},
        )
    ]
    photos = [photo(), b"no picture at all", photo(50), photo(40)]
    first, refused, broken, last = pipeline.analyse_many(photos)
    assert isinstance(first, Analysis)
    assert isinstance(last, Analysis)
    assert isinstance(refused, UnsupportedImage), "its header condemns it: it is not even sent"
    assert isinstance(broken, InvalidImage)
    assert broken.reason == "truncated"
    assert [first.picture.width, last.picture.width] == [64, 40]
    assert [a.faces[0].detection.box.x for a in (first, last)] == [1, 3]
    assert service.paths == ["/v1/embed/batch"]


def test_a_service_that_takes_one_photo_at_a_time_gets_them_so(
    service: Service, pipeline: RemotePipeline
) -> None:
    service.answers["/v1/embed/batch"] = [problem(404, "not_found")]
    service.answers["/v1/embed"] = [embedded(face(embedding=[1, 0, 0, 0]))]
    for _ in range(2):
        assert all(isinstance(a, Analysis) for a in pipeline.analyse_many([photo(), photo(50)]))
    assert service.paths == ["/v1/embed/batch", *["/v1/embed"] * 4], "it is asked once"


def test_photos_that_are_too_large_together_go_alone(
    service: Service, pipeline: RemotePipeline
) -> None:
    service.answers["/v1/embed/batch"] = [problem(413, "request_too_large")]
    service.answers["/v1/embed"] = [embedded(face(embedding=[1, 0, 0, 0]))]
    assert all(isinstance(a, Analysis) for a in pipeline.analyse_many([photo(), photo(50)]))
    assert service.paths == ["/v1/embed/batch", "/v1/embed", "/v1/embed"]


def test_several_photos_have_the_same_retries_and_breaker(
    service: Service, pipeline: RemotePipeline
) -> None:
    good = items(*[{"embedded": embedded(face(embedding=[1, 0, 0, 0]))}] * 2)
    away = httpx2.ConnectError("refused")
    service.answers["/v1/embed/batch"] = [away, problem(503, "busy"), good, away]
    photos = [photo(), photo(50)]
    assert len(pipeline.analyse_many(photos)) == 2
    assert len(service.requests) == 3
    with pytest.raises(EncoderUnavailable):
        pipeline.analyse_many(photos)
    asked = len(service.requests)
    with pytest.raises(EncoderUnavailable):
        pipeline.analyse(photo())
    assert len(service.requests) == asked, "the breaker is one for both forms"


def test_brightness_and_sharpness_come_along(service: Service, pipeline: RemotePipeline) -> None:
    measured = {**face(embedding=[1, 0, 0, 0]), "brightness": 0.4, "sharpness": 0.7}
    service.answers["/v1/embed"] = [embedded(measured)]
    service.answers["/v1/detect"] = [{"faces": [measured], "timings_ms": {}}]
    whole = pipeline.analyse(photo()).faces[0]
    chosen = pipeline.analyse(photo(), choose=lambda faces: [0]).faces[0]
    assert [(f.brightness, f.sharpness) for f in (whole, chosen)] == [(0.4, 0.7)] * 2
    service.answers["/v1/embed"] = [embedded({**measured, "brightness": 7})]
    with pytest.raises(EncoderUnavailable):
        pipeline.analyse(photo())
