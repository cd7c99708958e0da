"""A new model that hangs, crashes or takes too much memory harms only the process that tests it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper as make
from onnx import numpy_helper

from tests.contract.serving.conftest import classifier
from tests.contract.serving.test_endless_model import hang
from tidemill import bundle
from tidemill.bundle import Bundle
from tidemill.errors import BundleError, UnavailableError
from tidemill.serving.sandbox.sandbox import Sandbox, SandboxLimits, memory_limit, run

GIB = 2**30


def hanging(folder: Path) -> Bundle:
    made = classifier(folder)
    made.model_path.write_bytes(hang(made.model_path.read_bytes()))
    return bundle.seal(made.path, made.manifest)


def greedy(folder: Path) -> Bundle:
    """Needs 32 GiB for a sum."""
    made = classifier(folder)
    model = onnx.load(made.model_path)
    sizes = numpy_helper.from_array(np.array([2**33], np.int64), "sizes")
    for node in model.graph.node:
        node.input[:] = ["X2" if name == "X" else name for name in node.input]
    model.graph.node.insert(0, make.make_node("Add", ["X", "zero"], ["X2"]))
    model.graph.node.insert(0, make.make_node("ReduceSum", ["many"], ["zero"], keepdims=0))
    model.graph.node.insert(0, make.make_node("ConstantOfShape", ["sizes"], ["many"]))
    model.graph.initializer.append(sizes)
    made.model_path.write_bytes(model.SerializeToString())
    return bundle.seal(made.path, made.manifest)


def test_a_bundle_that_passes_is_tested_once_per_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = classifier(tmp_path / "b")
    Sandbox(tmp_path / "tested").test(made)
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    Sandbox(tmp_path / "tested").test(made)
    with pytest.raises(UnavailableError, match="cannot be started"):
        Sandbox(tmp_path / "elsewhere").test(made)


def test_where_marks_cannot_be_kept_bundles_are_tested_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    Sandbox(tmp_path / "file").test(classifier(tmp_path / "b"))


def test_an_endless_graph_is_refused_and_the_refusal_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = hanging(tmp_path / "b")
    tests = Sandbox(tmp_path / "tested", limits=SandboxLimits(run=0.3))
    with pytest.raises(BundleError, match=r"did not finish within 0\.3 s"):
        tests.test(made)
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with pytest.raises(BundleError, match="did not finish"):
        tests.test(made)


def test_a_graph_that_takes_all_memory_is_refused(tmp_path: Path) -> None:
    limits = SandboxLimits(memory=GIB)
    with pytest.raises(BundleError, match=r"(?i)alloc|memory"):
        Sandbox(tmp_path / "tested", limits=limits).test(greedy(tmp_path / "b"))
    with pytest.raises(BundleError, match=r"(?i)alloc|memory"):
        run(tmp_path / "b" / "model.onnx", limits=limits)


def test_the_process_is_limited_in_time(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="SIGXCPU"):
        run(hanging(tmp_path / "b").path, limits=SandboxLimits(cpu=1))
    with pytest.raises(BundleError, match=r"within 0\.01 s"):
        run(classifier(tmp_path / "c").path, limits=SandboxLimits(wall=0.01))


def test_a_bundle_that_answers_otherwise_is_refused_with_the_reason(tmp_path: Path) -> None:
    made, other = classifier(tmp_path / "b"), classifier(tmp_path / "c", seed=9)
    made.model_path.write_bytes(other.model_path.read_bytes())
    with pytest.raises(BundleError, match="differently than in training"):
        run(bundle.seal(made.path, made.manifest).path)


def test_onnx_files_are_run_on_zeros(tmp_path: Path) -> None:
    run(classifier(tmp_path / "b").model_path)
    with pytest.raises(BundleError, match="did not finish"):
        run(hanging(tmp_path / "c").model_path, limits=SandboxLimits(run=0.3))
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(BundleError, match="cannot load"):
        run(tmp_path / "text.onnx")


def test_the_memory_limit_is_a_share_of_the_machines() -> None:
    assert GIB <= memory_limit() < 2**50


def test_a_large_model_has_more_time() -> None:
    limits = SandboxLimits(wall=60.0, cpu=120)
    assert limits.for_size(9_000_000) == limits
    assert limits.for_size(5_000_000_000) == SandboxLimits(wall=560.0, cpu=620)
