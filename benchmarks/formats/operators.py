"""ONNX's own test vectors through our operators: `operators.py`; prints failures, and counts at the end.

A case counts if its graph is a single node of an operator in our table, on float32, integers or booleans.
"""

from __future__ import annotations

import warnings
from collections import Counter
from functools import partial

import numpy as np
import torch
from onnx import AttributeProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from detrigger.errors import ModelError
from detrigger.onnx.operators import find

FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, AttributeError)
KINDS = {"float32", "float64", "int64", "int32", "bool", "uint8"}


def tensor(value: np.ndarray) -> torch.Tensor:
    floats = value.dtype.kind == "f"
    kind = np.float32 if floats else np.bool_ if value.dtype == bool else np.int64
    return torch.from_numpy(np.array(value, dtype=kind))


def attribute(proto: AttributeProto) -> object:
    value = helper.get_attribute_value(proto)
    if proto.type == AttributeProto.TENSOR:
        return tensor(numpy_helper.to_array(value))
    return value.decode() if isinstance(value, bytes) else value


def outcome(case: object) -> str:
    """`same`, `left out`, `not supported`, or what is wrong."""
    (node,) = case.model.graph.node
    opset = case.model.opset_import[0].version
    operator = find(node.op_type, opset)
    inputs, expected = case.data_sets[0]
    arrays = [*inputs, *expected]
    if operator is None or node.domain or not all(str(getattr(a, "dtype", "list")) in KINDS for a in arrays):
        return "left out"
    told = {a.name: attribute(a) for a in node.attribute}
    given = iter(inputs)
    arguments = [tensor(next(given)) if name else None for name in node.input]
    if node.op_type == "Split" and len(arguments) < 2 and "num_outputs" not in told:
        told["num_outputs"] = len(node.output)
    try:
        results = partial(operator, **told)(*arguments)
    except ModelError:
        return "not supported"
    except FAILURES as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    results = results if isinstance(results, tuple) else (results,)
    if len(results) < len(expected):
        return "left out"  # outputs that only training needs
    for got, wanted in zip(results, expected, strict=False):
        want = tensor(wanted)
        if got.shape != want.shape or not torch.allclose(
            got.float(), want.float(), 1e-3, 1e-5, equal_nan=True
        ):
            return f"differs: {tuple(got.shape)} and {tuple(want.shape)}"
    return "same"


def main() -> None:
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    operators = set()
    for case in collect_testcases(""):
        if len(case.model.graph.node) != 1 or "_expanded" in case.name or "training" in case.name:
            continue
        result = outcome(case)
        kind = result if result in {"same", "left out", "not supported"} else "FAILED"
        counts[kind] += 1
        if kind == "same":
            operators.add(case.model.graph.node[0].op_type)
        if kind in {"FAILED", "not supported"}:
            print(f"{case.name}: {result}")
    print(dict(counts), len(operators), "operators")


if __name__ == "__main__":
    main()
