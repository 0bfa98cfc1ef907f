"""Accuracy figures are what their definitions say, and lists are read as they are written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench import scoring
from bench.dataset import DatasetError, Photo, read_groups, read_pairs, read_photos
from faces.models.curves import interpolate

SCORES = st.lists(
    st.tuples(st.sampled_from([round(-1 + n / 10, 1) for n in range(21)]), st.booleans()),
    min_size=2,
    max_size=60,
).filter(lambda pairs: len({genuine for _, genuine in pairs}) == 2)


def arrays(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([s for s, _ in pairs]), np.array([g for _, g in pairs])


@settings(deadline=None)
@given(SCORES)
def test_the_area_is_the_chance_that_genuine_beats_impostor(
    pairs: list[tuple[float, bool]],
) -> None:
    similarity, genuine = arrays(pairs)
    wins = [(a > b) + (a == b) / 2 for a in similarity[genuine] for b in similarity[~genuine]]
    assert scoring.area_under_curve(similarity, genuine) == pytest.approx(np.mean(wins))


@settings(deadline=None)
@given(SCORES, st.floats(0, 1))
def test_a_threshold_keeps_its_rate_and_is_the_lowest_that_does(
    pairs: list[tuple[float, bool]], rate: float
) -> None:
    similarity, genuine = arrays(pairs)
    impostors = similarity[~genuine]
    threshold = scoring.threshold_at(impostors, rate)
    assert (impostors >= threshold).mean() <= rate + 1e-9
    lower = impostors[impostors < threshold]
    if len(lower):
        assert (impostors >= lower.max()).mean() > rate


@settings(deadline=None)
@given(SCORES)
def test_no_threshold_is_better_than_the_best(pairs: list[tuple[float, bool]]) -> None:
    similarity, genuine = arrays(pairs)
    threshold, best = scoring.best_threshold(similarity, genuine)

    def balanced(at: float) -> float:
        return float(((similarity[genuine] >= at).mean() + (similarity[~genuine] < at).mean()) / 2)

    assert balanced(threshold) == pytest.approx(best)
    assert best >= max(balanced(at) for at in similarity) - 1e-12


def clustered(people: int, photos: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    centres = random.normal(size=(people, 16))
    labels = np.repeat(np.arange(people), photos)
    vectors = centres[labels] + noise * random.normal(size=(people * photos, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), labels


def test_intervals_hold_the_figure_and_narrow_with_more_photos() -> None:
    widths = []
    for photos in (4, 16):
        vectors, people = clustered(8, photos, 0.9)
        pairs = scoring.all_pairs(vectors, people)
        found = scoring.bootstrap(pairs, len(vectors), [0.05], 100)
        area = scoring.area_under_curve(pairs.similarity, pairs.genuine)
        assert found.auc[0] <= area <= found.auc[1]
        rate = scoring.true_accept_rate(pairs.similarity, pairs.genuine, 0.05)
        assert found.tar[0.05][0] <= rate <= found.tar[0.05][1]
        widths.append(found.auc[1] - found.auc[0])
    assert widths[1] < widths[0]


def test_too_many_pairs_are_drawn_from_and_give_about_the_same_figure() -> None:
    vectors, people = clustered(10, 12, 0.9)
    every = scoring.all_pairs(vectors, people)
    drawn = scoring.all_pairs(vectors, people, most=3000)
    assert drawn.genuine.sum() == every.genuine.sum()
    assert (~drawn.genuine).sum() == 3000
    assert scoring.area_under_curve(drawn.similarity, drawn.genuine) == pytest.approx(
        scoring.area_under_curve(every.similarity, every.genuine), abs=0.02
    )


def test_identification_counts_people_with_another_photo_only() -> None:
    vectors = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0]], np.float32)
    assert scoring.nearest_right(vectors, np.array([0, 0, 1, 2])) == 1.0
    assert scoring.nearest_right(vectors, np.array([0, 1, 0, 2])) == 0.0
    assert scoring.nearest_right(vectors, np.arange(4)) is None


def test_the_false_match_curve_falls_and_is_read_between_its_points() -> None:
    impostors = np.random.default_rng(2).normal(0, 0.1, 20_000)
    curve = tuple(scoring.false_match_curve(impostors))
    rates = [interpolate(curve, similarity) for similarity in np.linspace(-1, 1, 101)]
    assert rates == sorted(rates, reverse=True)  # type: ignore[type-var]
    assert rates[0] == 1.0
    true_share = (impostors >= 0.2).mean()
    assert interpolate(curve, 0.2) == pytest.approx(true_share, rel=0.25)
    assert interpolate((), 0.2) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for person, count in (("Ann_Other", 3), ("Bo", 2)):
        (tmp_path / person).mkdir()
        for number in range(1, count + 1):
            (tmp_path / person / f"{person}_{number:04d}.jpg").write_bytes(b"x")
    return tmp_path


def test_pair_lists_are_read_in_both_forms(folder: Path) -> None:
    photos = read_photos(folder)
    assert photos[0] == Photo(folder / "Ann_Other" / "Ann_Other_0001.jpg", "Ann_Other")
    (folder / "pairs.txt").write_text("10\t300\nAnn_Other\t1\t3\nAnn_Other\t2\tBo\t1\n\n")
    plain = "Ann_Other/Ann_Other_0001.jpg Ann_Other/Ann_Other_0003.jpg 1\n"
    plain += "Ann_Other/Ann_Other_0002.jpg Bo/Bo_0001.jpg 0\n"
    (folder / "plain.txt").write_text(plain)
    listed = read_pairs(folder / "pairs.txt", folder, photos)
    assert [(p.first, p.second, p.genuine) for p in listed] == [(0, 2, True), (1, 3, False)]
    assert read_pairs(folder / "plain.txt", folder, photos) == listed


@pytest.mark.parametrize(
    "line", ["Ann_Other 1 9", "Ann_Other x Bo 1", "a b c d e", "a.jpg b.jpg 2"]
)
def test_a_pair_that_cannot_be_used_is_named_by_its_line(folder: Path, line: str) -> None:
    (folder / "pairs.txt").write_text(f"1\nAnn_Other 1 2\n{line}\n")
    with pytest.raises(DatasetError, match="line 3"):
        read_pairs(folder / "pairs.txt", folder, read_photos(folder))


def test_groups_are_read_and_malformed_ones_refused(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("Ann, one\nBo,two\n")
    assert read_groups(tmp_path / "groups.csv") == {"Ann": "one", "Bo": "two"}
    (tmp_path / "groups.csv").write_text("Ann\n")
    with pytest.raises(DatasetError, match="person,group"):
        read_groups(tmp_path / "groups.csv")


def test_a_folder_of_one_person_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="two people"):
        read_photos(tmp_path)


def test_the_command_measures_the_probes_and_draws_the_curve(
    samples_dir: Path, models_dir: Path, tmp_path: Path, root: Path
) -> None:
    people = sorted(p.name for p in (samples_dir / "probes").iterdir())
    groups = tmp_path / "groups.csv"
    groups.write_text("".join(f"{name},{'ab'[n % 2]}\n" for n, name in enumerate(people)))
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "bench", "accuracy", "--data", str(samples_dir / "probes")]
    command += ["--model", "facenet128-int8", "--groups", str(groups), "--out", str(out)]
    environ = {**os.environ, "MODEL_DIR": str(models_dir)}
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert (found["photos"], found["people"], found["detection_rate"]) == (25, 5, 1.0)
    assert (found["genuine_pairs"], found["impostor_pairs"]) == (50, 250)
    assert found["auc"] > 0.98
    assert found["nearest_right"] >= 0.96
    assert found["groups"]["a"]["photos"] == 15
    assert "0.0001" not in found["tar"], "250 pairs cannot show one in 10,000"
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.size == (760, 560)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 3
    assert "ROC AUC" in done.stdout
