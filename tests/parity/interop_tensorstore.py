"""Opens the arrays of a featcache store with TensorStore and compares every byte with what our reader gave.

usage: interop_tensorstore.py STORE DUMP

DUMP holds index.json, a list of {path, affine, bases, dtype, rows: [row, ...], file}, and the files: the bytes of
these rows as our reader handed them out. Rows that are not in the list have no features and must read as NaN.
Where `affine` is not null, it is the path of the level's scales and offsets, and `bases` are the paths of its basis
and mean, if it has them. Then the level's values are what the formula in the attributes of the array at `path` makes
of all these.
Run by tests/cases/interop.rs; needs tensorstore and numpy. Ends with 1 at the first difference.
"""

import importlib.metadata
import json
import pathlib
import sys

import ml_dtypes  # noqa: F401  registers float8_e4m3fn, which formulas name
import numpy
import tensorstore


FEATURES = ("row", "height", "width", "channel")


def opened(path: pathlib.Path, labels: tuple[str, ...] = FEATURES) -> tensorstore.TensorStore:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
    array = tensorstore.open(spec, open=True, read=True).result()
    # Compressed floats have an axis of their bytes.
    assert tuple(array.domain.labels) in (labels, (*labels, "byte")), array.domain
    return array


def decoded(store: pathlib.Path, path: str, attributes: dict) -> numpy.ndarray:
    names = {"payload": opened(store / path).read().result(), "numpy": numpy}
    if "affine" in attributes:
        names["affine"] = opened((store / path).parent / attributes["affine"]).read().result()
    if "basis" in attributes:
        names["basis"] = opened(store / attributes["basis"], ("coefficient", "channel")).read().result()
        names["mean"] = opened(store / attributes["mean"], ("channel",)).read().result()
    return eval(attributes["formula"], {"__builtins__": {}}, names)  # our own file, written a moment ago


def main() -> None:
    store, dump = map(pathlib.Path, sys.argv[1:])
    root = json.loads((store / "zarr.json").read_text())
    documents = root["consolidated_metadata"]["metadata"]
    arrays = json.loads((dump / "index.json").read_text())
    found = sorted(path for path, document in documents.items() if document["node_type"] == "array")
    paths = {path for entry in arrays for path in (entry["path"], entry["affine"], *entry["bases"]) if path}
    assert found == sorted(paths), f"consolidated metadata lists {found}"

    total = 0
    for entry in arrays:
        path = store / entry["path"]
        array = opened(path)
        attributes = documents[entry["path"]]["attributes"]
        if attributes:
            assert not entry["affine"] or entry["affine"].endswith("/" + attributes["affine"]), attributes
            assert entry["bases"] == [attributes[name] for name in ("basis", "mean") if name in attributes]
            values = decoded(store, entry["path"], attributes)
        else:
            assert array.dtype.name == entry["dtype"], f"{path}: {array.dtype.name}"
            values = array.read().result()
        assert values.dtype.name == entry["dtype"], f"{path}: {values.dtype.name}"
        expected = (dump / entry["file"]).read_bytes()
        ours = values[entry["rows"]].tobytes()
        assert ours == expected, f"{path}: bytes differ"
        for row in set(range(values.shape[0])) - set(entry["rows"]):
            assert numpy.isnan(values[row].astype(numpy.float32)).all(), f"{path}: row {row} is not NaN"
        # A band alone comes from its chunk alone.
        row, height = entry["rows"][-1], values.shape[1]
        if not attributes:
            part = array[row, height // 3 : height // 2 + 1].read().result()
            assert part.tobytes() == values[row, height // 3 : height // 2 + 1].tobytes(), f"{path}: part"
        total += len(ours)
    version = importlib.metadata.version("tensorstore")
    print(f"tensorstore {version}: {len(arrays)} arrays, {total} bytes equal")


if __name__ == "__main__":
    main()
