"""`python -m bench calibrate MODEL`: the int8 scales of a model, from the sample gallery's faces.

Writes the file that is checked in, makes the int8 model from it, and prints what goes on its card.
The probes take no part in it: they, and all pairs with them, are what it is then measured on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.crops import crops_of, photos_in
from bench.report import say
from bench.scoring import all_pairs, threshold_at, true_accept_rate
from faces.encode import OnnxEncoder
from faces.models import files, quantise
from faces.models.cards import CARDS, ModelCard, card
from faces.sessions import Session, open_session
from faces.settings import load

FALSE_ACCEPT_RATES = (1e-2, 1e-3)
BINS = 4096


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of a tensor's values in equal steps from `low` to `high`."""

    low: float
    high: float
    counts: npt.NDArray[np.int64]


def _open(network: Path, tensors: Sequence[str], folder: Path) -> Session:
    """A session of the network whose outputs are these tensors."""
    import onnx

    model = onnx.load(str(network))
    del model.graph.output[:]
    for name in tensors:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    onnx.save(model, str(folder / "open.onnx"))
    return open_session(folder / "open.onnx", threads=1)


def histograms(
    network: Path, crops: npt.NDArray[np.uint8], tensors: Sequence[str]
) -> dict[str, Histogram]:
    """How each tensor's values lie between their smallest and largest, over all crops."""
    ranges = dict.fromkeys(tensors, (np.inf, -np.inf))
    counts = {name: np.zeros(BINS, np.int64) for name in tensors}
    with tempfile.TemporaryDirectory() as folder:
        session = _open(network, tensors, Path(folder))

        def values() -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
            for crop in crops:
                outputs = session.run({session.inputs[0]: crop[None]})
                yield from zip(session.outputs, outputs, strict=True)

        for name, found in values():
            low, high = ranges[name]
            ranges[name] = min(low, float(found.min())), max(high, float(found.max()))
        for name, found in values():
            counts[name] += np.histogram(found, BINS, ranges[name])[0]
    return {name: Histogram(*ranges[name], counts[name]) for name in tensors}


def best_range(histogram: Histogram) -> tuple[float, float]:
    """The part of a tensor's range that 256 steps render with the least mean squared error.

    A few values far out would make the steps coarse for all others: it can be better to clip them.
    """
    edges = np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    shares = histogram.counts / histogram.counts.sum()
    parts = np.linspace(0.3, 1.0, 36)
    best = (np.inf, histogram.low, histogram.high)
    for low in [min(0.0, histogram.low)] if histogram.low >= 0 else histogram.low * parts:
        for high in histogram.high * parts:
            step = (max(high, 0.0) - min(low, 0.0)) / quantise.ACTIVATION_LIMIT
            clipped = np.clip(middles, low, high) - middles
            error = float(shares @ clipped**2) + step**2 / 12
            best = min(best, (error, float(low), float(high)))
    return best[1], best[2]


def calibrate(models_dir: Path, model: ModelCard, crops: npt.NDArray[np.uint8]) -> None:
    """Writes the calibration of an int8 model from crops of its base's alignment."""
    import onnx

    network = files.encoder_path(models_dir, str(model.base))
    graph = onnx.load(str(network), load_external_data=False).graph
    found = histograms(network, crops, quantise.integer_tensors(graph))
    scales = {name: quantise.scale_and_zero(*best_range(h)) for name, h in found.items()}
    made_by = f"python -m bench calibrate {model.key}, {len(crops)} faces of the sample gallery"
    quantise.write_calibration(
        model.key,
        quantise.Calibration(model.key, files.sha256_of(network), made_by, scales),
    )


def report(
    models_dir: Path, model: ModelCard, int8: Path, crops: npt.NDArray[np.uint8], people: list[str]
) -> str:
    """How the int8 model's vectors compare with its base's, on crops of known people."""
    base = card(str(model.base))
    plain = OnnxEncoder(open_session(files.encoder_path(models_dir, base.key)), base, "")
    small = OnnxEncoder(open_session(int8), model, "")
    reference, vectors = plain.encode(crops), small.encode(crops)
    cosine = (reference * vectors).sum(axis=1)
    labels = np.unique(people, return_inverse=True)[1]
    lines = [f"cosine to {base.key}: mean {cosine.mean():.4f}, minimum {cosine.min():.4f}"]
    both = all_pairs(vectors, labels)
    similarity = (vectors.astype(np.float64) @ reference.astype(np.float64).T)[
        both.first, both.second
    ]
    for rate in FALSE_ACCEPT_RATES:
        within = true_accept_rate(both.similarity, both.genuine, rate)
        across = true_accept_rate(similarity, both.genuine, rate)
        plainly = all_pairs(reference, labels)
        before = true_accept_rate(plainly.similarity, plainly.genuine, rate)
        threshold = threshold_at(both.similarity[~both.genuine], rate)
        lines.append(
            f"TAR at FAR {rate:g}: {within:.4f} (threshold {threshold:.3f}); int8 against"
            f" {base.key} {across:.4f}; {base.key} alone {before:.4f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    keys = [model.key for model in CARDS.values() if model.recipe == "quantise"]
    parser = argparse.ArgumentParser(prog="python -m bench calibrate", description=__doc__)
    parser.add_argument("model", choices=keys)
    model = card(parser.parse_args(arguments).model)
    settings = load()
    samples = settings.var_dir / "samples"
    crops, people = [], []
    gallery = 0
    for part in ("gallery", "probes"):
        say(f"faces of {part}")
        for found in crops_of(settings.models_path, model, photos_in(samples / part)):
            if found.crop is not None:
                crops.append(found.crop)
                people.append(found.path.parent.name)
        gallery = gallery or len(crops)
    if not gallery:
        say("no sample photos: run `python -m faces.models fetch --samples` first")
        return 1
    say(f"scales of {model.key} from {gallery} faces")
    calibrate(settings.models_path, model, np.stack(crops[:gallery]))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / model.file
        network = files.encoder_path(settings.models_path, str(model.base))
        quantise.quantise(network, made, quantise.read_calibration(model.key))
        print(f"{quantise.calibration_path(model.key)}: written")
        print(f"{model.file}: {made.stat().st_size} bytes, SHA-256 {files.sha256_of(made)}")
        print(report(settings.models_path, model, made, np.stack(crops), people))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
