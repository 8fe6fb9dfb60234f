"""The example rows of artefacts, which prove that a version answers as it did: they are rows of its training data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from tidemill.loop.person import Person, row_key
from tidemill.records import ModelVersion
from tidemill.runtime.artefact import encode_row, example_rows, read_artefact, read_example_scores, read_params
from tidemill.runtime.artefact import write_artefact as write
from tidemill.schema import Schema
from tidemill.training.export import canonical
from tidemill.training.made_up import made_up_data


def without_person(person: Person, model: ModelVersion, examples: Sequence[str]) -> str | None:
    """Store the artefact of a version again without a person's rows among its example rows; return its digest.

    None where it shows none of them. One that shows nobody else's gets a made-up row, so that it is still proven.

    Raises:
        ModelError: it does not load, or does not answer as it did.
    """
    world, artefact = person.world, model.artefact
    folder = world.blobs.folder(artefact)
    known = read_artefact(folder)
    rows = example_rows(known)
    names = tuple(rows[0])
    schema = Schema.from_json(known.schema)  # not today's: what stood for a missing input when these were shown
    theirs = {row_key(schema.filled(row), names) for row in _inputs(person, model.dataset, examples, names)}
    kept = [at for at, row in enumerate(rows) if row_key(row, names) not in theirs]
    if len(kept) == len(rows):
        return None
    shown, scores = [known.example[at] for at in kept], read_example_scores(folder)[kept]
    if not shown:
        columns = made_up_data(schema, num_rows=1, rng=np.random.default_rng(0)).columns
        with closing(world.load(artefact)) as loaded:
            scores = loaded.predict({name: columns[name] for name in names})
        shown = [encode_row(row) for row in canonical({name: columns[name] for name in names})]
    work = world.workdir(f"forget-{artefact[:16]}")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder, work, copy_function=shutil.copyfile)
    write(work, replace(known, example=shown), params=read_params(folder), scores=scores)
    new = world.blobs.put_folder(work)
    shutil.rmtree(work)
    world.load(new).close()
    return new


def _inputs(
    person: Person, dataset: str | None, examples: Sequence[str], names: Sequence[str]
) -> Iterator[Mapping[str, Any]]:
    """Yield a person's inputs: those in the dataset that the version learnt from, else all that are kept of theirs.

    The dataset tells even when the log and the reservoir do not any more, and is smaller than the log.
    """
    if dataset is not None and person.is_kept(dataset):
        return person.learnt(dataset, examples)
    return person.inputs(examples, names)
