"""How large a vector index gets, and which Atlas tier holds it: arithmetic on published figures.

Sources: the vector's bytes are its dimensions times 4 (float32), 1 (scalar) or 1/8 (binary). Atlas
states that scalar quantisation divides the RAM of an index by about 3.75 and binary by about 24, as
the graph is not compressed, and that the full vectors stay on disk for rescoring; a rebuild needs
125 % of the index's disk. The share of the graph (16 edges a node, about 1.1 levels of 4-byte ids,
and Lucene's overhead) is what those two factors leave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from faces.records import Quantization

QUANTIZATIONS: tuple[Quantization, ...] = ("none", "scalar", "binary")
_RAM_FACTOR = {"none": 1.0, "scalar": 3.75, "binary": 24.0}
_GRAPH_BYTES = 160
"""A node's edges and ids, beside its vector."""
_DOCUMENT_BYTES = 900
"""A face document without its vectors, with its ordinary indexes."""
_FILTER_BYTES = 200
REBUILD = 1.25
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Tier:
    """What an Atlas tier offers. `search` tiers are dedicated search nodes."""

    name: str
    ram_gib: float
    disk_gib: float
    indexes: int | None
    search: bool = False


# RAM and default disk of the tiers as Atlas publishes them (dedicated: AWS; search nodes: S tiers,
# low-CPU, which offer the most RAM). A cluster's own nodes give about half their RAM to search.
TIERS = (
    Tier("M0", 0.25, 0.5, 3),
    Tier("Flex", 0.5, 5, 10),
    Tier("M10", 2, 10, None),
    Tier("M20", 4, 20, None),
    Tier("M30", 8, 40, None),
    Tier("M40", 16, 80, None),
    Tier("M50", 32, 160, None),
    Tier("M60", 64, 320, None),
    Tier("M80", 128, 750, None),
    Tier("S30", 16, 200, None, True),
    Tier("S40", 32, 400, None, True),
    Tier("S50", 64, 800, None, True),
    Tier("S60", 128, 1600, None, True),
    Tier("S70", 192, 2400, None, True),
    Tier("S80", 256, 3200, None, True),
)
_SHARED = 0.5
_LARGEST_SEARCH = TIERS[-1]
MAX_SHARD_FACES = 50_000_000


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of one index, and of the faces' documents beside it."""

    quantization: Quantization
    ram: int
    disk: int
    documents: int

    @property
    def rebuild(self) -> int:
        """Extra disk while the index is rebuilt."""
        return round(self.disk * REBUILD)


def size(faces: int, dimensions: int, quantization: Quantization) -> Size:
    """The size of a model's index over so many faces."""
    full = faces * (dimensions * 4 + _GRAPH_BYTES + _FILTER_BYTES)
    quantised = 0 if quantization == "none" else round(full / _RAM_FACTOR[quantization])
    return Size(
        quantization,
        ram=round(full / _RAM_FACTOR[quantization]),
        disk=full + quantised,
        documents=faces * (_DOCUMENT_BYTES + dimensions * 4),
    )


def fits(size: Size, tier: Tier) -> Literal["yes", "not while rebuilding", "no"]:
    """Whether a tier holds an index, in RAM and on disk."""
    ram = tier.ram_gib * GIB * (1.0 if tier.search else _SHARED)
    held = size.disk + (0 if tier.search else size.documents)
    if size.ram > ram or held > tier.disk_gib * GIB:
        return "no"
    return "yes" if held + size.rebuild <= tier.disk_gib * GIB else "not while rebuilding"


def shape(size: Size, faces: int) -> str:
    """A cluster that holds the index, in a sentence."""
    for tier in TIERS:
        if fits(size, tier) == "yes":
            if tier.search:
                return f"two {tier.name} search nodes hold it, a copy each"
            return f"an {tier.name} cluster holds it"
    shards = max(
        -(-faces // MAX_SHARD_FACES),
        -(-size.ram // round(_LARGEST_SEARCH.ram_gib * GIB)),
        -(-(size.disk + size.rebuild) // round(_LARGEST_SEARCH.disk_gib * GIB)),
    )
    return (
        f"{shards} shards with two {_LARGEST_SEARCH.name} search nodes each; shard likeness_faces "
        "by {collection: 1, media_id: 1} before it is filled"
    )


def report(faces: int, dimensions: int, model: str, tier: str | None) -> list[str]:
    """The lines that `python -m migrations size` prints."""
    lines = [f"{faces:,} faces of {model} ({dimensions} dimensions)"]
    for quantization in QUANTIZATIONS:
        found = size(faces, dimensions, quantization)
        lines.append(
            f"{quantization:>7}: index RAM {_gib(found.ram)}, disk {_gib(found.disk)} "
            f"(+{_gib(found.rebuild)} while rebuilding), documents {_gib(found.documents)}; "
            f"{shape(found, faces)}"
        )
        if tier is not None:
            named = next(entry for entry in TIERS if entry.name == tier)
            lines.append(f"         on {tier}: {fits(found, named)}")
    if faces * dimensions * 4 > 3 * GIB:
        lines.append(
            "Above 3 GB Atlas advises quantisation; 128 and 512 dimensions lose more by it than "
            "large vectors do: `model KEY --quantization` measures recall@10 before it switches."
        )
    lines.append(
        "Limits: M0 takes 3 search indexes, Flex 10, over all databases of the cluster; a model "
        "switch needs one more than the one in use. Figures: bytes per vector, Atlas's published "
        "compression (scalar 3.75, binary 24) and tiers, 125 % disk for a rebuild; estimates."
    )
    return lines


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f} GiB"
