"""Folders of Hugging Face `datasets`, as its `save_to_disk` writes and its `load_from_disk` opens them.

A dataset is a folder of Arrow streams with `state.json`, which names them, and `dataset_info.json`, which describes the
columns; several splits are a folder of such folders with `dataset_dict.json`. The library itself is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from tidemill.errors import ProjectError
from tidemill.records import Json

_DTYPES = {
    pa.large_string(): "large_string", pa.large_binary(): "large_binary", pa.float64(): "float64", pa.int64(): "int64",
}  # fmt: skip
_PLAIN = {"Value", "ClassLabel", "List", "LargeList", "Sequence", "Array2D", "Array3D", "Array4D", "Array5D"}


def write_description(
    folder: Path, split: str, names: Sequence[str], types: Mapping[str, pa.DataType], digest: str
) -> None:
    """Describe the Arrow streams `names` in `folder` as one split of a dataset."""
    features = {name: {"dtype": _DTYPES[kind], "_type": "Value"} for name, kind in types.items()}
    info = {"citation": "", "description": f"Tidemill dataset {digest}", "features": features, "homepage": "",
            "license": ""}  # fmt: skip
    state: Json = {
        "_data_files": [{"filename": name} for name in names], "_fingerprint": digest[:16], "_format_columns": None,
        "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": split,
    }  # fmt: skip
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    (folder / "state.json").write_text(json.dumps(state, indent=2))


def is_folder(path: Path) -> bool:
    """Say whether `path` is the folder of a dataset, or of several splits."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def read_folder(path: Path, wanted: Collection[str] = ()) -> pl.DataFrame:
    """Return the rows of a dataset, of all its splits where it has some. Class labels are the names of their classes.

    Columns that hold something else than values and arrays of them are left out.

    Raises:
        ProjectError: the folder is damaged, or one of the `wanted` columns is left out.
    """
    try:
        splits = [path]
        if (path / "dataset_dict.json").is_file():
            splits = [path / name for name in json.loads((path / "dataset_dict.json").read_bytes())["splits"]]
        return pl.concat([_read_split(split, wanted) for split in splits], how="vertical_relaxed")
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        pa.ArrowException,
        pl.exceptions.PolarsError,
    ) as error:
        raise ProjectError(
            f"dataset folder {str(path)!r} cannot be read: {error}.", "save it again with `save_to_disk`"
        ) from error


def _read_split(folder: Path, wanted: Collection[str]) -> pl.DataFrame:
    features = json.loads((folder / "dataset_info.json").read_bytes()).get("features") or {}
    files = [entry["filename"] for entry in json.loads((folder / "state.json").read_bytes())["_data_files"]]
    tables = [_read_stream(folder / Path(name).name) for name in files]
    table = pa.concat_tables(tables)
    left_out = {name: feature for name, feature in features.items() if not _is_plain(feature)}
    for name in [name for name in table.schema.names if name in left_out]:
        if name in wanted:
            raise _unsupported(name, left_out[name])
        table = table.drop_columns(name)
    frame = pl.DataFrame(pl.from_arrow(_without_extensions(table)))
    return frame.with_columns(_named(name, feature) for name, feature in features.items() if _classes(feature))


def _read_stream(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_stream(file).read_all()


def _is_plain(feature: Json) -> bool:
    """Say whether a column of this feature holds numbers, text, bytes, or lists of them."""
    if isinstance(feature, list):
        return all(map(_is_plain, feature))
    return feature.get("_type") in _PLAIN and ("feature" not in feature or _is_plain(feature["feature"]))


def _without_extensions(table: pa.Table) -> pa.Table:
    """Return the arrays of several axes as the lists they are stored as."""
    columns = [
        pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
        if isinstance(column.type, pa.BaseExtensionType) else column
        for column in table.columns
    ]  # fmt: skip
    return pa.table(dict(zip(table.schema.names, columns, strict=True)))


def _classes(feature: Json) -> list[str] | None:
    return feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None


def _named(name: str, feature: Json) -> pl.Expr:
    names: dict[Any, str] = dict(enumerate(_classes(feature) or ()))
    return pl.col(name).replace_strict(names, default=None, return_dtype=pl.String())


def _unsupported(name: str, feature: Json) -> ProjectError:
    kind = feature.get("_type", "a structure") if isinstance(feature, dict) else "a structure"
    return ProjectError(
        f"column {name!r} is of the feature {kind!r}, which is not read: only values, class labels and arrays are.",
        "map it to such a column first, for an image to `numpy.asarray(image)` as an Array3D of uint8",
    )
