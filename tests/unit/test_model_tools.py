"""What a model switch is judged by: sizes, recall, the shadow report, and faces in their crops."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from faces.crops import in_crop, padded
from faces.records import Quantization
from faces.types import Box
from migrations import recall, shadow, size
from tests.faces_made import near, vector

PLACES = st.floats(0, 900)
SIDES = st.floats(8, 400)


class TestSize:
    @given(st.integers(1, 10**9), st.sampled_from([128, 512]))
    def test_quantising_saves_ram_and_costs_disk(self, faces: int, dimensions: int) -> None:
        none, scalar, binary = (size.size(faces, dimensions, q) for q in size.QUANTIZATIONS)
        assert none.ram >= scalar.ram >= binary.ram
        assert none.disk <= binary.disk <= scalar.disk
        assert none.rebuild >= none.disk

    @given(st.integers(1, 10**9))
    def test_every_size_has_a_cluster(self, faces: int) -> None:
        assert size.shape(size.size(faces, 512, "none"), faces)

    def test_fifty_million_faces_need_shards_or_search_nodes(self) -> None:
        lines = size.report(50_000_000, 512, "facenet512", "M30")
        assert "50,000,000 faces" in lines[0]
        assert all(any(name in line for line in lines) for name in size.QUANTIZATIONS)
        assert "on M30: no" in "\n".join(lines)
        huge = size.shape(size.size(2_000_000_000, 512, "none"), 2_000_000_000)
        assert "{collection: 1, media_id: 1} before it is filled" in huge

    @pytest.mark.parametrize(
        ("faces", "quantization", "tier", "answer"),
        [
            (10_000, "none", "M0", "yes"),
            (10_000_000, "none", "M0", "no"),
            (1_500_000, "binary", "M10", "not while rebuilding"),
        ],
    )
    def test_what_a_tier_holds(
        self, faces: int, quantization: Quantization, tier: str, answer: str
    ) -> None:
        named = next(entry for entry in size.TIERS if entry.name == tier)
        assert size.fits(size.size(faces, 512, quantization), named) == answer

    @pytest.mark.parametrize("quantization", size.QUANTIZATIONS)
    def test_a_vectors_bytes_are_the_least_of_it(self, quantization: Quantization) -> None:
        assert size.size(1000, 512, quantization).disk > 1000 * 512 * 4


class TestRecall:
    def test_is_the_share_of_the_true_nearest(self) -> None:
        assert recall.recall([["a", "b"], ["x"]], [["a", "c"], ["x"]]) == 0.75
        assert recall.recall([], []) == 1.0
        assert recall.recall([[]], [["a"]]) == 0.0


class TestShadow:
    def test_a_model_agrees_with_itself(self) -> None:
        vectors = np.stack([vector(n) for n in range(30)])
        report = shadow.compare("facenet128", "facenet128", {"facenet128": vectors})
        assert (report.overlap, report.only_old, report.only_new) == (1.0, 0, 0)
        assert (report.faces, report.pairs) == (30, 435)

    def test_pairs_that_only_one_matches_are_counted(self) -> None:
        old = np.stack([vector(1), near(1, 0.1), vector(2)])
        new = np.stack([vector(1, "sface"), vector(2, "sface"), near(2, 0.1, model="sface")])
        report = shadow.compare("facenet128", "sface", {"facenet128": old, "sface": new})
        assert (report.only_old, report.only_new, report.pairs) == (1, 1, 3)
        assert any("1 match only by facenet128" in line for line in report.lines())

    @pytest.mark.parametrize("count", [0, 1])
    def test_too_few_faces_are_no_error(self, count: int) -> None:
        vectors = np.stack([vector(n) for n in range(count)]) if count else np.zeros((0, 128))
        report = shadow.compare(
            "facenet128", "facenet128", {"facenet128": vectors.astype(np.float32)}
        )
        assert (report.faces, report.pairs) == (count, 0)


class TestCrops:
    @given(PLACES, PLACES, SIDES, SIDES)
    def test_a_crop_holds_its_face_and_stays_inside_the_picture(
        self, x: float, y: float, width: float, height: float
    ) -> None:
        box = Box(x, y, min(width, 1000 - x), min(height, 1000 - y))
        shown = padded(box, 1000, 1000)
        assert shown.x >= 0
        assert shown.y >= 0
        assert shown.x + shown.width <= 1000 + 1e-9
        assert shown.y + shown.height <= 1000 + 1e-9
        assert shown.x <= box.x
        assert shown.x + shown.width >= box.x + box.width - 1e-9

    def test_landmarks_move_with_the_face(self) -> None:
        # The crop of a 100 px face at (200, 100): 200 px wide from (150, 50), kept at half size.
        jpeg = io.BytesIO()
        Image.new("RGB", (100, 100)).save(jpeg, "JPEG")
        face = {
            "box": {"x": 200, "y": 100, "width": 100, "height": 100},
            "frame": [1000, 800],
            "landmarks": [[220, 130], [280, 130], [250, 160], [230, 180], [270, 180]],
        }
        moved = in_crop(face, {"jpeg": jpeg.getvalue()})
        assert moved is not None
        assert moved["box"] == {"x": 25, "y": 25, "width": 50, "height": 50}
        assert moved["landmarks"] == [[35, 40], [65, 40], [50, 55], [40, 65], [60, 65]]

    def test_an_unreadable_crop_is_none(self) -> None:
        face = {
            "box": {"x": 0, "y": 0, "width": 1, "height": 1},
            "frame": [10, 10],
            "landmarks": [],
        }
        assert in_crop(face, {"jpeg": b"not a jpeg"}) is None
