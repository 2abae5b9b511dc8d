"""ONNX: its own node tests on csoftmax's operators, and models of older opsets against ONNX Runtime."""

import numpy as np
import onnxruntime
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import csoftmax
from csoftmax.interop.onnx import OPERATORS

pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore::RuntimeWarning:onnx"),  # while it makes other operators' tests
]

PREFIXES = {
    "Softmax": "test_softmax_",
    "LogSoftmax": "test_logsoftmax_",
    "Hardmax": "test_hardmax_",
    "SoftmaxCrossEntropyLoss": "test_sce_",
    "NegativeLogLikelihoodLoss": "test_nllloss_",
}


@pytest.fixture(scope="module")
def node_tests():
    from onnx.backend.test.loader import load_model_tests

    return load_model_tests(kind="node")


def evaluate(model, inputs):
    """The outputs, and the number of nodes that are ours."""
    evaluator = ReferenceEvaluator(model, new_ops=OPERATORS)
    names = [value.name for value in model.graph.input]
    ours = sum(type(node) in OPERATORS for node in evaluator.rt_nodes_)
    return evaluator.run(None, dict(zip(names, inputs, strict=True))), ours


@pytest.mark.parametrize(("operator", "count"), [*zip(PREFIXES, (7, 7, 7, 34, 18), strict=True)])
def test_node_tests(operator, count, node_tests):
    passed = 0
    for case in node_tests:
        if case.name.startswith(PREFIXES[operator]) and any(
            node.op_type == operator for node in case.model.graph.node
        ):
            for inputs, outputs in case.data_sets:
                got, ours = evaluate(case.model, inputs)
                assert ours == 1
                for value, want in zip(got, outputs, strict=True):
                    assert value.dtype == want.dtype
                    assert value.shape == want.shape
                    np.testing.assert_allclose(value, want, rtol=case.rtol, atol=case.atol, err_msg=case.name)
            passed += 1
    assert passed == count


def test_operators_inside_functions(node_tests):
    """Loss functions and attention written out in simpler operators, of which softmax is one."""
    cases = [case for case in node_tests if case.name.endswith("_expanded") and "16" not in case.name]
    cases = [case for case in cases if {node.op_type for node in case.model.graph.node} & {*PREFIXES}]
    assert len(cases) > 50
    for case in cases:
        for inputs, outputs in case.data_sets:
            got, ours = evaluate(case.model, inputs)
            assert ours >= 1
            for value, want in zip(got, outputs, strict=True):
                np.testing.assert_allclose(value, want, rtol=case.rtol, atol=case.atol, err_msg=case.name)


def model(operator, opset, inputs, outputs=("y",), **attributes):
    types = {
        np.dtype("f4"): TensorProto.FLOAT,
        np.dtype("f2"): TensorProto.FLOAT16,
        np.dtype("i8"): TensorProto.INT64,
    }
    names = [f"x{i}" for i in range(len(inputs))]
    graph = helper.make_graph(
        [helper.make_node(operator, names, list(outputs), **attributes)],
        operator,
        [
            helper.make_tensor_value_info(n, types[x.dtype], x.shape)
            for n, x in zip(names, inputs, strict=True)
        ],
        [helper.make_tensor_value_info(n, types[inputs[0].dtype], None) for n in outputs],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return made


def runtime(made, inputs):
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)})


@pytest.mark.parametrize("attributes", [{}, {"axis": 0}, {"axis": 2}, {"axis": -1}])
@pytest.mark.parametrize("opset", [11, 12, 13])
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Hardmax"])
def test_opsets(operator, opset, attributes, rng):
    x = rng.standard_normal((2, 3, 4)).astype("f4")
    made = model(operator, opset, [x], **attributes)
    ((got,), ours), (want,) = evaluate(made, [x]), runtime(made, [x])
    assert ours == 1
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 13])
def test_empty(operator, opset):
    x = np.empty((2, 0, 3), "f4")
    ((got,), _) = evaluate(model(operator, opset, [x]), [x])
    assert got.shape == x.shape


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_16_bits(reduction, rng):
    """Neither is to add up in 16 bits; targets that are ignored may have any log-probability."""
    x, weight = rng.standard_normal((600, 5, 3)).astype("f2"), rng.uniform(1, 2, 5).astype("f2")
    target = rng.integers(0, 5, (600, 3))
    target[::7] = -1
    options = {"reduction": reduction, "ignore_index": -1}
    made = model("SoftmaxCrossEntropyLoss", 13, [x, target, weight], ("y", "log_p"), **options)
    (loss, log_p), _ = evaluate(made, [x, target, weight])
    assert loss.dtype == log_p.dtype == np.float16
    assert (log_p == csoftmax.log_softmax(x, 1)).all()
    want, *_ = oracle.cross_entropy(x, target, 1, weight=weight, **options)
    assert oracle.max_ulp(loss, want) < 0.502
    log_p[::7] = -np.inf
    inputs = [log_p, target, weight]
    ((loss,), ours) = evaluate(model("NegativeLogLikelihoodLoss", 13, inputs, **options), inputs)
    assert ours == 1
    weights = np.where(target == -1, 0, weight[target]).astype("f8")
    picked = np.take_along_axis(log_p, np.maximum(target, 0)[:, None], 1)[:, 0].astype("f8")
    want = -weights * np.where(target == -1, 0, picked)
    want = {"none": want, "sum": want.sum(), "mean": want.sum() / weights.sum()}[reduction]
    assert oracle.max_ulp(loss, want) < 0.502


# --------------------------------------------------------------------------- targets that are no classes


LOSSES = ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"]


def loss_of(operator, x, target, *weight, **attributes):
    inputs = [np.asarray(x, "f4"), np.asarray(target, "i8"), *(np.asarray(w, "f4") for w in weight)]
    ((loss, *_), ours) = evaluate(model(operator, 13, inputs, **attributes), inputs)
    assert ours == 1
    return loss


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("target", [-1, -3, -100, 3, 2**40])
@pytest.mark.parametrize("operator", LOSSES)
def test_targets_that_are_no_classes_are_refused(operator, target, reduction):
    with pytest.raises(IndexError, match=rf"target {target} at \(1,\) is no class from 0 to 2, without ignore_index"):
        loss_of(operator, np.zeros((3, 3)), [0, target, -7], reduction=reduction)


@pytest.mark.parametrize("operator", LOSSES)
def test_only_the_index_that_is_named_is_ignored(operator):
    x = np.log([[0.25, 0.75], [0.5, 0.5]])
    for ignored in (-1, -100, 7, 1):
        assert loss_of(operator, x, [0, ignored], ignore_index=ignored) == pytest.approx(np.log(4), rel=1e-6)
    for target in (-1, 2):
        with pytest.raises(IndexError, match=rf"target {target} at \(1,\) .* with ignore_index -100"):
            loss_of(operator, x, [0, target], ignore_index=-100)


@pytest.mark.parametrize("operator", LOSSES)
def test_the_first_offender_is_named_by_its_place(operator):
    target = np.zeros((2, 4), int)
    target[1, 2] = target[1, 3] = -1
    with pytest.raises(IndexError, match=r"target -1 at \(1, 2\) "):
        loss_of(operator, np.zeros((2, 3, 4)), target)


@pytest.mark.parametrize("shape", [(1,), (4,), (3, 1), ()])
@pytest.mark.parametrize("operator", LOSSES)
def test_targets_of_another_shape_are_refused(operator, shape):
    with pytest.raises(ValueError, match=r"want targets of shape \(3,\), not "):
        loss_of(operator, np.zeros((3, 3)), np.zeros(shape))


@pytest.mark.parametrize("operator", LOSSES)
def test_weights_of_another_length_are_refused(operator):
    for weight in (np.ones(2), np.ones(4), np.ones((3, 1))):
        with pytest.raises(ValueError, match="weight"):
            loss_of(operator, np.zeros((2, 3)), [0, 1], weight)


@given(data=st.data())
@pytest.mark.parametrize("operator", LOSSES)
def test_a_target_is_taken_if_and_only_if_it_is_a_class_or_ignored(operator, data):
    target = data.draw(st.lists(st.integers(-4, 4), min_size=1, max_size=4))
    ignored = data.draw(st.none() | st.integers(-4, 4))
    attributes = {"reduction": "none"} | ({} if ignored is None else {"ignore_index": ignored})
    x = csoftmax.log_softmax(np.arange(3.0 * len(target)).reshape(-1, 3) ** 2 % 5)
    if all(0 <= t < 3 or t == ignored for t in target):
        want = [0 if t == ignored else -row[t] for row, t in zip(x, target, strict=True)]
        np.testing.assert_allclose(loss_of(operator, x, target, **attributes), want, rtol=1e-6)
    else:
        with pytest.raises(IndexError, match="is no class"):
            loss_of(operator, x, target, **attributes)


# ------------------------------------------------------------------------------------- 0 log 0 is 0


MASKED = [[-np.inf, 0.0, 1.0], [0.0, 2.0, 1.0]]


def test_what_has_weight_0_counts_for_nothing_at_minus_infinity():
    log_p = csoftmax.log_softmax(MASKED)
    weight, target = [0.0, 1.0, 2.0], [0, 2]
    loss = -log_p[1, 2]
    for operator, x in ("NegativeLogLikelihoodLoss", log_p), ("SoftmaxCrossEntropyLoss", MASKED):
        for reduction, want in ("sum", 2 * loss), ("mean", loss), ("none", [0, 2 * loss]):
            got = loss_of(operator, x, target, weight, reduction=reduction)
            np.testing.assert_allclose(got, want, rtol=1e-6)
        # what is ignored has weight 0 as well
        np.testing.assert_allclose(loss_of(operator, x, target, ignore_index=0), loss, rtol=1e-6)
        # without a weight of 0 the loss is infinite
        assert loss_of(operator, x, target) == np.inf


@pytest.mark.parametrize("operator", LOSSES)
def test_a_mean_of_nothing_is_nan_and_prints_no_warning(operator):
    x = csoftmax.log_softmax(MASKED)[1:]
    assert np.isnan(loss_of(operator, x, [-1], ignore_index=-1))
    assert np.isnan(loss_of(operator, x, [0], [0.0, 1.0, 1.0]))
    assert loss_of(operator, x, [-1], ignore_index=-1, reduction="sum") == 0
