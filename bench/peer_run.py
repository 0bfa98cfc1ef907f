"""One peer's encoder, timed in the peers' own environment; knows nothing of this project.

`python peer_run.py PEER THREADS WORKDIR` reads what it needs from WORKDIR and prints one JSON
object: milliseconds a face at batch 1 and 8, and the process's peak resident memory in MB.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BUDGET_S = 1.5
Encode = Callable[[Any], Any]


def timed(encode: Encode, batch: int, crops: Any) -> float:
    """The milliseconds a face, the fastest of many runs."""
    part = crops[:batch]
    for _ in range(3):
        encode(part)
    taken: list[float] = []
    until = time.perf_counter() + BUDGET_S
    while time.perf_counter() < until or len(taken) < 5:
        start = time.perf_counter()
        encode(part)
        taken.append(time.perf_counter() - start)
    return min(taken) / batch * 1e3


def torch_encoder(threads: int, kind: str) -> Encode:
    """facenet-pytorch's InceptionResnetV1 (512-d head; its weights do not change its speed)."""
    import torch
    from facenet_pytorch import InceptionResnetV1

    torch.set_num_threads(threads)
    model = InceptionResnetV1(pretrained=None, classify=False).eval()
    if kind == "jit":
        example = torch.zeros(1, 3, 160, 160)
        model = torch.jit.freeze(torch.jit.trace(model, example))

    def encode(crops: Any) -> Any:
        pixels = torch.from_numpy(crops[..., ::-1].copy()).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            return model((pixels - 127.5) / 128).numpy()

    return encode


def keras_encoder(threads: int, work: Path, kind: str) -> Encode:
    """The network of facenet_keras.h5 as Keras layers, with the file's weights."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import h5py
    import numpy as np
    import tensorflow as tf
    from tensorflow import keras

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    made: dict[str, Any] = {}
    with h5py.File(work / "facenet_keras.h5") as file:
        config = json.loads(file.attrs["model_config"])["config"]
        for entry in config["layers"]:
            name, kind_of, options = entry["name"], entry["class_name"], entry["config"]
            if kind_of == "InputLayer":
                made[name] = image = keras.Input((160, 160, 3))
                continue
            inputs = [made[node[0]] for node in entry["inbound_nodes"][0]]
            if kind_of == "Lambda":
                scale = options["arguments"]["scale"]
                made[name] = keras.layers.Add()([inputs[0], inputs[1] * scale])
                continue
            layer = _keras_layer(keras.layers, kind_of, options)
            made[name] = layer(inputs if len(inputs) > 1 else inputs[0])
            group = file["model_weights"][name]
            names = list(group.attrs["weight_names"])
            if names:
                layer.set_weights([np.array(group[n]) for n in names])
        model = keras.Model(image, made[config["output_layers"][0][0]])
    call = tf.function(lambda pixels: model(pixels, training=False))

    def encode(crops: Any) -> Any:
        pixels = (crops[..., ::-1].astype("float32") - 127.5) / 128
        return model.predict(pixels, verbose=0) if kind == "predict" else call(pixels).numpy()

    return encode


def _keras_layer(layers: Any, kind: str, o: dict[str, Any]) -> Any:
    if kind == "Conv2D":
        return layers.Conv2D(
            o["filters"], o["kernel_size"], o["strides"], o["padding"], use_bias=o["use_bias"]
        )
    if kind == "BatchNormalization":
        return layers.BatchNormalization(
            axis=-1, epsilon=o["epsilon"], center=o["center"], scale=o["scale"]
        )
    if kind == "MaxPooling2D":
        return layers.MaxPooling2D(o["pool_size"], o["strides"], o["padding"])
    simple = {
        "Activation": lambda: layers.Activation(o["activation"]),
        "Concatenate": lambda: layers.Concatenate(axis=-1),
        "GlobalAveragePooling2D": layers.GlobalAveragePooling2D,
        "Dropout": lambda: layers.Dropout(o["rate"]),
        "Dense": lambda: layers.Dense(o["units"], use_bias=o["use_bias"]),
    }
    return simple[kind]()


def openvino_encoder(threads: int, work: Path, file: str) -> Encode:
    """OpenVINO on our ONNX file."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(str(work / file), "CPU", options)
    return lambda crops: model([crops])[0]


def opencv_encoder(threads: int, work: Path) -> Encode:
    """cv2.dnn on our network with a float input, which is what it can read."""
    import cv2

    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(str(work / "facenet128-float.onnx"))

    def encode(crops: Any) -> Any:
        net.setInput(crops.astype("float32").transpose(0, 3, 1, 2).copy())
        return net.forward()

    return encode


def encoder(peer: str, threads: int, work: Path) -> Encode:
    """The peer's function from crops (n, 160, 160, 3) BGR uint8 to vectors."""
    if peer.startswith("facenet-pytorch"):
        return torch_encoder(threads, peer.rpartition(" ")[2])
    if peer.startswith("keras"):
        return keras_encoder(threads, work, peer.rpartition(" ")[2])
    if peer.startswith("openvino"):
        return openvino_encoder(
            threads, work, "facenet128-int8.onnx" if peer.endswith("int8") else "facenet128.onnx"
        )
    return opencv_encoder(threads, work)


def main() -> None:
    """Times the peer that the command line names."""
    import numpy as np

    peer, threads, work = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    crops = np.load(work / "crops.npy")
    encode = encoder(peer, threads, work)
    found = {f"batch{batch}": timed(encode, batch, crops) for batch in (1, 8)}
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
