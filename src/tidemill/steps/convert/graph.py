"""An ONNX graph under construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

#: What ONNX Runtime 1.21 and newer take. Trees with sums in double precision came with ML opset 5.
OPSET, ML_OPSET, OLD_ML_OPSET, IR_VERSION = 21, 5, 3, 10
ML = "ai.onnx.ml"

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
INT64, STRING = TensorProto.INT64, TensorProto.STRING

Array = npt.NDArray[Any]


class Graph:
    """Nodes and constants; every operation adds one node and returns the name of its result.

    The same operation on the same values is added once.

    Attributes:
        single: Whether skl2onnx converts its steps in single precision.
        foreign: What other converters converted.
    """

    def __init__(self, *, single: bool = False) -> None:
        self.single = single
        self.external_steps: list[str] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[bytes, onnx.TensorProto] = {}
        self._made: dict[bytes, str] = {}
        self._count = 0
        self._domains: set[str] = set()

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add an operation with one result."""
        node = helper.make_node(op, inputs, [], domain=domain)
        node.attribute.extend(_attribute(name, value) for name, value in attributes.items())
        key = node.SerializeToString(deterministic=True)
        if key not in self._made:
            name = self.name()
            node.output.append(name)
            self._nodes.append(node)
            self._domains.add(domain)
            self._made[key] = name
        return self._made[key]

    def pair(self, op: str, *inputs: str, **attributes: Any) -> tuple[str, str]:
        """Add an operation with two results."""
        names = self.name(), self.name()
        self._nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names

    def ml(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add an operation of the ONNX-ML domain."""
        return self.add(op, *inputs, domain=ML, **attributes)

    def constant(self, values: npt.ArrayLike, dtype: Any = None) -> str:
        """Add a constant, or find the equal one that is there."""
        tensor = numpy_helper.from_array(np.asarray(values, dtype))
        key = tensor.SerializeToString(deterministic=True)
        if key not in self._constants:
            tensor.name = self.name("c")
            self._constants[key] = tensor
        return str(self._constants[key].name)

    def cast(self, name: str, to: int) -> str:
        return self.add("Cast", name, to=to)

    def double(self, name: str) -> str:
        return self.cast(name, DOUBLE)

    def stack(self, names: Sequence[str]) -> str:
        """Concatenate matrices by columns."""
        return names[0] if len(names) == 1 else self.add("Concat", *names, axis=1)

    def columns(self, name: str, index: Sequence[int]) -> str:
        """Select columns of a matrix."""
        return self.add("Gather", name, self.constant(index, np.int64), axis=1)

    def reshape(self, name: str, *shape: int) -> str:
        return self.add("Reshape", name, self.constant(shape, np.int64))

    def product(self, left: str, right: str) -> str:
        """The product of two matrices. By Gemm, because ONNX Runtime fuses MatMul and a division
        into one node whose factor has single precision."""
        return self.add("Gemm", left, right)

    def embed(self, model: onnx.ModelProto, feeds: Mapping[str, str]) -> list[str]:
        """Add the graph of another model; returns the names of its outputs.

        Args:
            feeds: The name here for each of the model's inputs.
        """
        prefix = self.name("m") + "_"
        other = compose.add_prefix(model, prefix).graph
        for inner, outer in feeds.items():
            self._nodes.append(helper.make_node("Identity", [outer], [prefix + inner]))
        self._nodes.extend(other.node)
        self._domains.update(node.domain for node in other.node)
        for tensor in other.initializer:
            self._constants[tensor.name.encode()] = tensor
        return [value.name for value in other.output]

    def name(self, stem: str = "v") -> str:
        """A name that is not used in the graph yet."""
        self._count += 1
        return f"{stem}{self._count}"

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Mapping[str, tuple[str, int, Any]]
    ) -> onnx.ModelProto:
        """The finished model.

        Args:
            outputs: For each output its name within the graph, element type and shape.
        """
        ends = [helper.make_node("Identity", [v[0]], [name]) for name, v in outputs.items()]
        infos = [helper.make_tensor_value_info(n, v[1], v[2]) for n, v in outputs.items()]
        nodes, constants = _needed([*self._nodes, *ends], self._constants.values(), set(outputs))
        graph = helper.make_graph(nodes, "tidemill", inputs, infos, constants)
        model = helper.make_model(
            graph, producer_name="tidemill", opset_imports=self._opsets(nodes)
        )
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model)
        return model

    def _opsets(self, nodes: Sequence[onnx.NodeProto]) -> list[onnx.OperatorSetIdProto]:
        versions = {"": OPSET}
        if ML in self._domains:
            new = any(node.op_type == "TreeEnsemble" for node in nodes)
            versions[ML] = ML_OPSET if new else OLD_ML_OPSET
        for domain in self._domains - {"", ML, "ai.onnx"}:
            versions[domain] = 1
        return [helper.make_opsetid(domain, version) for domain, version in versions.items()]


def _attribute(name: str, value: Any) -> onnx.AttributeProto:
    """An attribute. Arrays of integers may be long and are not checked element by element."""
    if not isinstance(value, np.ndarray):
        attribute: onnx.AttributeProto = helper.make_attribute(name, value)
        return attribute
    attribute = onnx.AttributeProto(name=name, type=onnx.AttributeProto.INTS)
    attribute.ints.extend(value.tolist())
    return attribute


def _needed(
    nodes: Sequence[onnx.NodeProto], constants: Any, needed: set[str]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and constants that the outputs depend on, in order."""
    needed = set(needed)
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_read(node))
    return kept[::-1], [tensor for tensor in constants if tensor.name in needed]


def _read(node: onnx.NodeProto) -> set[str]:
    """Every name that a node reads, including the bodies of loops and branches."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names |= _read(inner)
        names.update(value.name for value in attribute.g.output)
    return names
