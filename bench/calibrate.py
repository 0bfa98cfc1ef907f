"""`python -m bench calibrate MODEL`: the int8 scales of a model, from the sample gallery's faces.

Writes the file that is checked in, makes the int8 model from it, and prints what goes on its card.
The probes take no part in it: they, and all pairs with them, are what it is then measured on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.crops import crops_of, photos_in
from bench.report import say
from bench.scoring import all_pairs, threshold_at, true_accept_rate
from faces.encode import OnnxEncoder
from faces.models import files, quantise
from faces.models.cards import CARDS, ModelCard, card
from faces.sessions import open_session
from faces.settings import load

FALSE_ACCEPT_RATES = (1e-2, 1e-3)


def ranges(
    network: Path, crops: npt.NDArray[np.uint8], tensors: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """The smallest and largest value of each tensor over all crops."""
    import onnx

    model = onnx.load(str(network))
    del model.graph.output[:]
    for name in tensors:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    found = dict.fromkeys(tensors, (np.inf, -np.inf))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "open.onnx"
        onnx.save(model, str(path))
        session = open_session(path, threads=1)
        for crop in crops:
            outputs = session.run({session.inputs[0]: crop[None]})
            for name, values in zip(session.outputs, outputs, strict=True):
                low, high = found[name]
                found[name] = min(low, float(values.min())), max(high, float(values.max()))
    return found


def calibrate(models_dir: Path, model: ModelCard, crops: npt.NDArray[np.uint8]) -> None:
    """Writes the calibration of an int8 model from crops of its base's alignment."""
    import onnx

    network = files.encoder_path(models_dir, str(model.base))
    graph = onnx.load(str(network), load_external_data=False).graph
    found = ranges(network, crops, quantise.integer_tensors(graph))
    scales = {name: quantise.scale_and_zero(*values) for name, values in found.items()}
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
