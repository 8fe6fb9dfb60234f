"""Examples of the reservoir that are like a request: by its vector, its picture or its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tidemill.errors import ProjectError
from tidemill.loop.world import World
from tidemill.records import Example
from tidemill.schema import Image, Schema, Tensor, Text
from tidemill.stats.embedding import Embedding
from tidemill.stores.similar import nearest

MOST_EXAMPLES = 20_000


class Alike(NamedTuple):
    """An example, and the cosine similarity of it."""

    example: Example
    similarity: float


def compared_by(schema: Schema) -> str:
    """Return the input by which examples are compared: the first tensor, else image, else text.

    Raises:
        ProjectError: there is none.
    """
    for kind in (Tensor, Image, Text):
        for name in schema.inputs:
            if isinstance(schema.inputs[name], kind):
                return name
    raise ProjectError(
        "the inputs are numbers and categories only, which have no direction to be similar in.",
        "give the project a Tensor, an Image or a Text",
    )


def alike(world: World, inputs: Mapping[str, Any], *, k: int = 8, without: str = "") -> list[Alike]:
    """Return the examples most similar to a request, best first, but for the example `without`.

    A tensor is compared with all examples, an image (as a thumbnail) or a text (by its words) with the newest 20,000.

    Raises:
        ProjectError: no input can be compared, or the request has not got it.
        StoreError: the vector is zero or not finite.
    """
    field = compared_by(world.project.schema)
    value = inputs.get(field)
    if value is None:
        raise ProjectError(f"the log has no {field!r} of this request.", "look at one whose inputs were kept")
    if isinstance(world.project.schema.inputs[field], Tensor):
        vector = np.frombuffer(value, dtype="<f4")
        pairs = [(one.id, one.similarity) for one in world.reservoir.similar(world.name, field, vector, k + 1)]
    else:
        pairs = _embedded(world, field, value, k + 1)
    pairs = [(id_, similarity) for id_, similarity in pairs if id_ != without][:k]
    found = world.examples([id_ for id_, _ in pairs])
    return [Alike(example, similarity) for example, (_, similarity) in zip(found, pairs, strict=True)]


def _embedded(world: World, field: str, value: Any, k: int) -> list[tuple[str, float]]:
    kind = world.project.schema.inputs[field]
    kind = replace(kind, tag=False) if isinstance(kind, Text) else kind
    ids = world.reservoir.index(world.name)["id"].tail(MOST_EXAMPLES).to_list()
    rows = world.inputs(ids)
    known = [at for at, row in enumerate(rows) if row.get(field) is not None]
    if not known:
        return []
    schema = Schema({field: kind}, world.project.output)
    embedding = Embedding(schema, shift={field: 0.0}, scale={field: 1.0})
    vectors = embedding.of([{field: rows[at][field]} for at in known])
    places, similarities = nearest(embedding.of([{field: value}])[0], vectors, k)
    return [(ids[known[int(at)]], float(one)) for at, one in zip(places, similarities, strict=True)]
