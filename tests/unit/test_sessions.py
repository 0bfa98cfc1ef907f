"""Graphs load fast from the form kept for this processor, and right whatever became of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from faces.encode import OnnxEncoder
from faces.errors import ConfigError, ModelFileError
from faces.models import optimised
from faces.models.cards import card
from faces.sessions import open_session

KEY = "facenet128-int8"
CROPS = np.random.default_rng(7).integers(0, 256, (6, 160, 160, 3), dtype=np.uint8)


@pytest.fixture
def model(models_dir: Path, tmp_path: Path) -> Path:
    """A copy of the int8 model, alone in a folder."""
    return Path(shutil.copy2(models_dir / f"{KEY}.onnx", tmp_path))


def kept(model: Path) -> list[Path]:
    return sorted(p for p in model.parent.glob("optimised/*") if not p.name.startswith("."))


def vectors(path: Path) -> np.ndarray:
    return OnnxEncoder(open_session(path), card(KEY), "build").encode(CROPS)


def test_the_kept_form_gives_the_same_vectors_and_is_made_once(model: Path) -> None:
    first = vectors(model)
    (folder,) = kept(model)
    made = (folder / optimised.GRAPH).stat().st_mtime_ns
    np.testing.assert_array_equal(vectors(model), first)
    assert (folder / optimised.GRAPH).stat().st_mtime_ns == made
    assert kept(model) == [folder]


@pytest.mark.parametrize("name", [optimised.GRAPH, optimised.WEIGHTS, optimised.RECORD])
def test_a_damaged_kept_form_is_made_anew(model: Path, name: str) -> None:
    first = vectors(model)
    (folder,) = kept(model)
    file = folder / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    np.testing.assert_array_equal(vectors(model), first)
    assert optimised.find(model, "other runtime") is None
    assert (kept(model)[0] / name).stat().st_size > file.stat().st_size // 2
    assert len(kept(model)) == 1


def test_another_build_of_the_model_replaces_the_kept_form(model: Path) -> None:
    vectors(model)
    (before,) = kept(model)
    model.write_bytes(model.read_bytes() + b"")  # the same bytes, but nobody vouches for them
    vectors(model)
    (after,) = kept(model)
    assert after != before


def test_work_of_a_killed_process_is_cleared_away_after_a_while(model: Path) -> None:
    old, young = (model.parent / "optimised" / f".partial-{name}" for name in ("old", "young"))
    for folder in (old, young):
        (folder / "new").mkdir(parents=True)
    os.utime(old, (0, 0))
    vectors(model)
    assert not old.exists()
    assert young.exists()


def test_where_nothing_can_be_kept_it_still_works_and_says_so(model: Path) -> None:
    (model.parent / "optimised").write_text("in the way")
    with capture_logs() as logs:
        found = vectors(model)
    assert found.shape == (6, 128)
    assert [entry["graph"] for entry in logs] == [model.name]


def test_a_missing_or_broken_graph_is_one_sentence_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"faces\.models fetch"):
        open_session(tmp_path / "absent.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelFileError, match=r"faces\.models verify"):
        open_session(tmp_path / "broken.onnx")


def test_a_provider_that_the_runtime_lacks_is_named(models_dir: Path) -> None:
    with pytest.raises(ConfigError, match="ONNX_PROVIDERS names NoSuchProvider"):
        open_session(models_dir / f"{KEY}.onnx", providers=("NoSuchProvider",))


def test_an_encoder_gives_unit_vectors_whatever_the_number_of_crops(models_dir: Path) -> None:
    encoder = OnnxEncoder(open_session(models_dir / f"{KEY}.onnx"), card(KEY), "build")
    whole = encoder.encode(CROPS)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(CROPS[4:5]), whole[4:5], atol=1e-6)
    assert encoder.encode(CROPS[:0]).shape == (0, 128)


@pytest.mark.parametrize("crops", [CROPS.astype(np.float32), CROPS[0], CROPS[:, :112, :112]])
def test_crops_of_another_kind_are_refused(models_dir: Path, crops: np.ndarray) -> None:
    encoder = OnnxEncoder(open_session(models_dir / f"{KEY}.onnx"), card(KEY), "build")
    with pytest.raises(ValueError, match="uint8"):
        encoder.encode(crops)


def test_the_runtime_reports_nothing_and_keeps_no_device_id(
    models_dir: Path, root: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from faces.sessions import open_session;"
        " open_session(Path(sys.argv[1])).run({'image': __import__('numpy').zeros((1, 64, 64, 3),"
        " 'u1')})"
    )
    command = [sys.executable, "-c", code, str(models_dir / "yunet.onnx")]
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(command, cwd=root, env=environ, check=True, timeout=60)
    assert list(tmp_path.rglob("*")) == []


def test_processes_that_load_at_the_same_time_all_succeed(model: Path, root: Path) -> None:
    code = "import sys; from pathlib import Path; from faces.sessions import prepare;"
    code += " print(prepare(Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(model)]
    running = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    answers = {child.communicate(timeout=120)[0].strip() for child in running}
    assert [child.returncode for child in running] == [0, 0, 0]
    assert answers == {str(kept(model)[0] / optimised.GRAPH)}
