"""A converted network gives what the network itself gives, for both kinds of file."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from faces.errors import ModelFileError
from faces.models import parity, reference, weights
from faces.models.convert import convert
from faces.models.inception import inception_resnet_v1
from faces.models.layers import from_config, keras_order
from faces.sessions import open_session

DATA = Path(__file__).resolve().parent.parent / "data"
Floats = npt.NDArray[np.float64]


def entry(kind: str, name: str, inputs: list[str], **config: Any) -> dict[str, Any]:
    nodes = [[[source, 0, 0, {}] for source in inputs]] if inputs else []
    return {"class_name": kind, "name": name, "config": config, "inbound_nodes": nodes}


def conv(name: str, source: str, filters: int, window: int, **more: Any) -> dict[str, Any]:
    config = {
        "filters": filters,
        "kernel_size": [window, window],
        "strides": [1, 1],
        "padding": "same",
        "use_bias": False,
        "activation": "linear",
    } | more
    return entry("Conv2D", name, [source], **config)


def norm(name: str, source: str, *, scale: bool = False) -> dict[str, Any]:
    return entry("BatchNormalization", name, [source], epsilon=1e-3, center=True, scale=scale)


SMALL = [
    entry("InputLayer", "image", []),
    conv("stem", "image", 6, 3, strides=[2, 2], padding="valid"),
    norm("stem_norm", "stem", scale=True),
    entry("Activation", "stem_relu", ["stem_norm"], activation="relu"),
    conv("left", "stem_relu", 4, 1),
    norm("left_norm", "left"),
    entry("Activation", "left_relu", ["left_norm"], activation="relu"),
    conv("right", "stem_relu", 5, 3, use_bias=True),
    entry("Activation", "right_relu", ["right"], activation="relu"),
    entry("Concatenate", "mixed", ["left_relu", "right_relu"], axis=3),
    conv("up", "mixed", 6, 1, use_bias=True),
    entry("Lambda", "sum", ["stem_relu", "up"], function=["never"], arguments={"scale": 0.17}),
    entry("Activation", "sum_relu", ["sum"], activation="relu"),
    entry("MaxPooling2D", "pool", ["sum_relu"], pool_size=[3, 3], strides=[2, 2], padding="valid"),
    entry("GlobalAveragePooling2D", "mean", ["pool"]),
    entry("Dropout", "dropout", ["mean"], rate=0.2),
    entry("Dense", "bottleneck", ["dropout"], units=7, use_bias=False, activation="linear"),
    norm("bottleneck_norm", "bottleneck"),
]
SHAPES = {
    "stem": {"kernel": (3, 3, 3, 6)},
    "stem_norm": dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (6,)),
    "left": {"kernel": (1, 1, 6, 4)},
    "left_norm": dict.fromkeys(("beta", "moving_mean", "moving_variance"), (4,)),
    "right": {"kernel": (3, 3, 6, 5), "bias": (5,)},
    "up": {"kernel": (1, 1, 9, 6), "bias": (6,)},
    "bottleneck": {"kernel": (6, 7)},
    "bottleneck_norm": dict.fromkeys(("beta", "moving_mean", "moving_variance"), (7,)),
}


def drawn(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The values of an array, from its name alone, so that no order can matter."""
    uniform = np.random.default_rng(zlib.crc32(name.encode())).random(shape)
    kind = name.rsplit("/", 1)[-1].split(":")[0]
    if kind == "kernel":
        return ((uniform - 0.5) * np.sqrt(24 / np.prod(shape[:-1]))).astype(np.float32)
    if kind in ("moving_variance", "gamma"):
        return (0.5 + uniform).astype(np.float32)
    return ((uniform - 0.5) * 0.2).astype(np.float32)


def store(group: h5py.Group, layer: str, arrays: dict[str, tuple[int, ...]]) -> None:
    inside = group.create_group(layer)
    names = [f"{layer}/{name}:0" for name in arrays]
    inside.attrs["weight_names"] = np.array(names, "S")
    for name, shape in zip(names, arrays.values(), strict=True):
        inside[name] = drawn(name, shape)


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    """A functional Keras file of the small network."""
    return write_small(tmp_path / "small.h5", SMALL)


def write_small(path: Path, layers: list[dict[str, Any]]) -> Path:
    config = {"layers": layers, "output_layers": [["bottleneck_norm", 0, 0]]}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Model", "config": config})
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = np.array([layer["name"] for layer in layers], "S")
        for layer in layers:
            store(group, layer["name"], SHAPES.get(layer["name"], {}))
    return path


def convolved(x: Floats, kernel: Floats, stride: int = 1, pad: int = 0) -> Floats:
    """One image (rows, columns, channels), by the definition of a convolution."""
    x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    size = kernel.shape[0]
    side = (x.shape[0] - size) // stride + 1
    out = np.zeros((side, side, kernel.shape[3]))
    for row in range(side):
        for column in range(side):
            patch = x[row * stride : row * stride + size, column * stride : column * stride + size]
            out[row, column] = np.einsum("abc,abcf->f", patch, kernel)
    return out


def small_by_hand(crop: npt.NDArray[np.uint8]) -> Floats:
    """What the small network gives for one BGR crop, written out without any of our code."""

    def w(layer: str, name: str) -> Floats:
        return drawn(f"{layer}/{name}:0", SHAPES[layer][name]).astype(np.float64)

    def normed(x: Floats, layer: str) -> Floats:
        x = (x - w(layer, "moving_mean")) / np.sqrt(w(layer, "moving_variance") + 1e-3)
        return x * (w(layer, "gamma") if "gamma" in SHAPES[layer] else 1.0) + w(layer, "beta")

    x = (crop[:, :, ::-1].astype(np.float64) - 127.5) / 128
    x = np.maximum(normed(convolved(x, w("stem", "kernel"), stride=2), "stem_norm"), 0)
    left = np.maximum(normed(convolved(x, w("left", "kernel")), "left_norm"), 0)
    right = np.maximum(convolved(x, w("right", "kernel"), pad=1) + w("right", "bias"), 0)
    up = convolved(np.concatenate([left, right], axis=2), w("up", "kernel")) + w("up", "bias")
    x = np.maximum(x + up * 0.17, 0)
    side = (x.shape[0] - 3) // 2 + 1
    pooled = [
        [x[2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max(axis=(0, 1)) for c in range(side)]
        for r in range(side)
    ]
    x = normed(np.mean(pooled, axis=(0, 1)) @ w("bottleneck", "kernel"), "bottleneck_norm")
    return np.asarray(x / np.linalg.norm(x))


def test_a_small_network_converts_to_what_its_layers_compute(
    small_file: Path, tmp_path: Path
) -> None:
    crops = np.random.default_rng(1).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    assert convert(small_file, tmp_path / "small.onnx", size=20) == 7
    (found,) = open_session(tmp_path / "small.onnx").run({"crops": crops})
    expected = np.stack([small_by_hand(crop) for crop in crops])
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert not np.allclose(
        expected, np.stack([small_by_hand(c[..., ::-1]) for c in crops]), atol=1e-3
    )


def test_the_layer_by_layer_reference_agrees_with_the_hand_written_network(
    small_file: Path,
) -> None:
    crops = np.random.default_rng(2).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
    found = reference.embed(*weights.read(small_file), crops)
    np.testing.assert_allclose(found, np.stack([small_by_hand(c) for c in crops]), atol=1e-9)


def test_conversion_gives_the_same_bytes_each_time(small_file: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        convert(small_file, tmp_path / name, size=20)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("stem", {"padding": "same"}),  # pixel values cannot be folded into a padded convolution
        ("right", {"activation": "relu"}),
        ("right", {"dilation_rate": [2, 2]}),
        ("mixed", {"axis": 1}),
        ("sum", {"arguments": {"factor": 2}}),
        ("up", {"filters": 5}),
    ],
)
def test_what_cannot_be_carried_over_is_refused(
    tmp_path: Path, name: str, change: dict[str, Any]
) -> None:
    layers = [
        layer | {"config": layer["config"] | change} if layer["name"] == name else layer
        for layer in SMALL
    ]
    with pytest.raises(ModelFileError):
        convert(write_small(tmp_path / "other.h5", layers), tmp_path / "other.onnx", size=20)


def test_a_file_that_is_not_keras_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(b"not an h5 file")
    with pytest.raises(ModelFileError, match="not a Keras file"):
        convert(tmp_path / "x.h5", tmp_path / "x.onnx")


def read_reference(name: str) -> tuple[npt.NDArray[np.uint8], Floats]:
    held = json.loads((DATA / name).read_text("utf-8"))
    inputs = np.random.default_rng(held["seed"]).integers(0, 256, (4, 160, 160, 3), dtype=np.uint8)
    vectors = np.array(held["embeddings"])
    return inputs[: len(vectors)], vectors


def test_facenet128_gives_the_vectors_that_keras_gave(models_dir: Path) -> None:
    crops, expected = read_reference("facenet128_reference.json")
    (found,) = open_session(models_dir / "facenet128.onnx").run({"crops": crops})
    assert (found * expected).sum(axis=1).min() >= 0.9999
    assert np.abs(found - expected).max() < 1e-5


def layout() -> list[tuple[str, dict[str, tuple[int, ...]]]]:
    lines = (DATA / "facenet512_layout.txt").read_text("utf-8").splitlines()
    parts = [line.split(" ") for line in lines]
    return [
        (name, {a.split(":")[0]: tuple(map(int, a.split(":")[1].split("x"))) for a in arrays})
        for name, *arrays in parts
    ]


@pytest.fixture(scope="module")
def facenet512_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file laid out as facenet512_weights.h5 is, with drawn values."""
    path = tmp_path_factory.mktemp("facenet512") / "facenet512_weights.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([name for name, _ in layout()], "S")
        for name, arrays in layout():
            store(file, name, arrays)
    return path


def test_a_weights_only_file_converts_to_what_keras_computes_from_it(
    facenet512_file: Path, tmp_path: Path
) -> None:
    crops, expected = read_reference("facenet512_reference.json")
    assert convert(facenet512_file, tmp_path / "facenet512.onnx") == 512
    (found,) = open_session(tmp_path / "facenet512.onnx").run({"crops": crops})
    assert (found * expected).sum(axis=1).min() >= 0.9999
    assert np.abs(found - expected).max() < 1e-5


def test_a_list_of_names_that_is_stored_in_parts_is_read_whole(
    facenet512_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "parts.h5"
    path.write_bytes(facenet512_file.read_bytes())
    with h5py.File(path, "r+") as file:
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:200], names[200:]
    assert len(weights.order_by_names(path) or []) == 245


def test_weights_are_taken_by_keras_order_not_by_name() -> None:
    stored = [name for name, arrays in layout() if arrays]
    ours = [layer.name for layer in keras_order(inception_resnet_v1(512)) if layer.weights]
    differing = [(a, b) for a, b in zip(ours, stored, strict=True) if a != b]
    # The published code numbers one branch by its block: names there cannot be trusted.
    assert differing
    assert all(b.replace(b.split("_")[3], "1", 1) for _, b in differing)
    assert [a.split("_Conv2d")[1] for a, _ in differing] == [
        b.split("_Conv2d")[1] for _, b in differing
    ]


@pytest.fixture
def swapped_file(facenet512_file: Path, tmp_path: Path) -> Path:
    """The same file with two layers of one shape in each other's place."""
    path = tmp_path / "swapped.h5"
    path.write_bytes(facenet512_file.read_bytes())
    with h5py.File(path, "r+") as file:
        names = [name.decode() for name in file.attrs["layer_names"]]
        a = names.index("Block35_1_Branch_2_Conv2d_0b_3x3")
        b = names.index("Block35_1_Branch_1_Conv2d_0b_3x3")
        names[a], names[b] = names[b], names[a]
        file.attrs["layer_names"] = np.array(names, "S")
    return path


def test_swapped_layers_of_one_shape_change_the_vectors_and_parity_names_them(
    swapped_file: Path, tmp_path: Path
) -> None:
    crops, expected = read_reference("facenet512_reference.json")
    convert(swapped_file, tmp_path / "swapped.onnx")
    (found,) = open_session(tmp_path / "swapped.onnx").run({"crops": crops})
    assert np.abs(found - expected).max() > 1e-4
    with pytest.raises(ModelFileError, match="names of 2 layers contradict"):
        parity._from_keras(swapped_file, crops[:1])


def test_parity_accepts_the_miscounted_names_of_the_published_file(facenet512_file: Path) -> None:
    crops, expected = read_reference("facenet512_reference.json")
    found, method = parity._from_keras(facenet512_file, crops[:1])
    assert "all 245 layers agree" in method
    np.testing.assert_allclose(found, expected[:1], atol=1e-5)


def test_a_weights_only_file_that_lacks_a_layer_is_refused(
    facenet512_file: Path, tmp_path: Path
) -> None:
    short = tmp_path / "short.h5"
    short.write_bytes(facenet512_file.read_bytes())
    with h5py.File(short, "r+") as file:
        names = [n for n in file.attrs["layer_names"] if n != b"Block8_6_Conv2d_1x1"]
        file.attrs["layer_names"] = np.array(names, "S")
    with pytest.raises(ModelFileError, match="layers"):
        convert(short, tmp_path / "short.onnx")


def test_the_order_rule_reproduces_the_order_of_the_self_describing_file(models_dir: Path) -> None:
    with h5py.File(models_dir / "sources" / "facenet_keras.h5") as file:
        names = [name.decode() for name in file["model_weights"].attrs["layer_names"]]
        network = from_config(file.attrs["model_config"])
    ours = [layer.name for layer in keras_order(network) if not layer.name.endswith("/scale")]
    assert ours == names
