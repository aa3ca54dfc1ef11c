"""Grouping: what each rule joins, on graphs small enough to see."""

from __future__ import annotations

import numpy as np
import pytest

from placer.errors import GraphError, UnknownNameError, UsageError
from placer.graph import Op, OpGraph, Output
from placer.grouping import OpGroups, group_ops


def _op(name: str, inputs: str = "", seconds: float = 1.0, size: float = 1.0, **fields) -> Op:
    return Op(
        name,
        "Op",
        tuple(inputs.split()),
        outputs=(Output(size),),
        seconds={"gpu": seconds},
        **fields,
    )


def _group(*ops: Op, num_groups: int | None = None) -> OpGroups:
    return group_ops(OpGraph.from_ops("example", ops), num_groups)


def _together(groups: OpGroups, *names: str) -> bool:
    index = groups.graph.op_index
    return len({int(groups.group_of_op[index[name]]) for name in names}) == 1


def _filler(count: int = 40) -> list[Op]:
    """Ops apart from all others, next to which one second and one byte are no heavy share."""
    return [_op(f"filler{i}", size=1000) for i in range(count)]


def test_a_chain_of_heavy_ops_stays_apart() -> None:
    """Single consumers do not collapse a graph in which every op is worth a decision."""
    groups = _group(*(_op(f"op{i}", f"op{i - 1}" if i else "") for i in range(12)))
    assert groups.num_groups == 12
    assert groups.names == tuple(f"op{i}" for i in range(12))


@pytest.mark.parametrize("shape", ["chain", "star"])
def test_light_ops_without_number_are_more_than_one_group(shape: str) -> None:
    """Each may join its reader, but they are heavy together."""
    count = 3000
    reads = "" if shape == "star" else "op{}"
    ops = [_op(f"op{i}", reads.format(i - 1) if i else "") for i in range(count)]
    if shape == "star":
        ops.append(_op("last", " ".join(op.name for op in ops)))
    groups = _group(*ops)
    sizes = np.bincount(groups.group_of_op)
    assert 20 <= groups.num_groups <= 256
    assert sizes.max() <= 2 * count / 24 + 1  # as much as is heavy, and as much of light ones


def test_colocated_ops_are_one_group_however_heavy() -> None:
    """A colocation group is a constraint: balance does not split it."""
    groups = _group(
        _op("w", colocation_group="w"),
        _op("x", "w"),
        _op("update", "x", colocation_group="w"),
    )
    assert _together(groups, "w", "update")
    assert not _together(groups, "w", "x")


def test_the_steps_of_an_lstm_are_groups_with_their_gradients() -> None:
    """An LSTM step and its gradient ops are one group; its layer is not, though it is light."""
    ops = [_op("lstm/kernel", colocation_group="lstm/kernel")]
    for step in range(3):
        before = f" lstm/step_{step - 1}/mul" if step else ""
        ops += [
            _op(f"lstm/step_{step}/matmul", f"lstm/kernel{before}", 0.1),
            _op(f"lstm/step_{step}/mul", f"lstm/step_{step}/matmul", 0.1),
        ]
    for step in reversed(range(3)):
        name = f"gradient_tape/lstm/step_{step}/matmul"
        ops += [_op(name, f"lstm/kernel lstm/step_{step}/matmul lstm/step_2/mul", 0.1)]
    groups = _group(*ops, *_filler())
    for step in range(3):
        scope = f"lstm/step_{step}"
        assert _together(groups, f"{scope}/matmul", f"{scope}/mul", f"gradient_tape/{scope}/matmul")
        assert groups.names[groups.group_of_op[groups.graph.op_index[f"{scope}/mul"]]] == scope
    assert not _together(groups, "lstm/step_0/mul", "lstm/step_1/mul")


def test_the_branches_of_a_block_are_groups() -> None:
    """Branches that read the same input are groups of their own, though their block is light."""
    ops = [_op("input")]
    for branch in range(3):
        scope = f"mixed_0/branch_{branch}"
        ops += [_op(f"{scope}/conv", "input", 0.2), _op(f"{scope}/relu", f"{scope}/conv", 0.2)]
    outputs = " ".join(f"mixed_0/branch_{branch}/relu" for branch in range(3))
    ops += [_op("mixed_0/concat", outputs, 0.2)]
    groups = _group(*ops, *_filler())
    for branch in range(3):
        assert _together(groups, f"mixed_0/branch_{branch}/conv", f"mixed_0/branch_{branch}/relu")
    assert not _together(groups, "mixed_0/branch_0/conv", "mixed_0/branch_1/conv")


def test_a_light_scope_is_one_group_and_a_heavy_one_is_not() -> None:
    """The outermost scope that is not heavy is one group."""
    light = [_op(f"block/layer/op{i}", "x", 0.1) for i in range(5)]
    heavy = [_op(f"big/op{i}", "x") for i in range(5)]
    groups = _group(_op("x"), *light, *heavy, *_filler())
    assert _together(groups, *(op.name for op in light))
    assert not _together(groups, "big/op0", "big/op1")


def test_a_variable_joins_the_only_unit_that_reads_it() -> None:
    """The variable of one layer is placed with that layer, the variable of two with neither."""
    groups = _group(
        _op("own", colocation_group="own"),
        _op("shared", colocation_group="shared"),
        _op("one/conv", "own shared"),
        _op("one/update", "one/conv own", 0.1, colocation_group="own"),
        _op("two/conv", "shared"),
        *_filler(80),
    )
    assert _together(groups, "own", "one/update", "one/conv")
    assert not _together(groups, "shared", "one/conv")
    assert not _together(groups, "shared", "two/conv")


def test_a_light_op_joins_the_neighbour_it_shares_most_bytes_with() -> None:
    """Of two neighbours, glue goes with the one that its larger tensor comes from."""
    groups = _group(
        _op("small", size=10),
        _op("large", size=1000),
        _op("glue", "small large", 1e-6, size=1),
        _op("next", "glue"),
        _op("other", "glue"),
        *_filler(),
    )
    assert _together(groups, "glue", "large")


def test_an_op_for_the_cpu_only_keeps_no_heavy_op_from_the_gpu() -> None:
    """Neither by scope nor by single consumer does a heavy op lose a device kind."""
    cpu = _op("layer/decode", "x", 0.2, device_kinds=("cpu",))
    gpu = _op("layer/matmul", "layer/decode", 0.2)
    groups = _group(_op("x"), cpu, gpu, *_filler())
    assert not _together(groups, "layer/decode", "layer/matmul")


def test_a_light_op_may_lose_device_kinds() -> None:
    """A constant for a CPU-only op goes with it."""
    constant = _op("constant", "", 1e-6)
    groups = _group(constant, _op("decode", "constant", device_kinds=("cpu",)), *_filler())
    assert _together(groups, "constant", "decode")


def test_coarsening_keeps_heavy_tensors_inside() -> None:
    """Of a chain with one light link in three, METIS cuts the light links."""
    sizes = [1e6, 1e6, 1.0] * 10
    ops = [_op(f"op{i}", f"op{i - 1}" if i else "", size=size) for i, size in enumerate(sizes)]
    groups = _group(*ops, num_groups=10)
    for i in range(10):
        assert _together(groups, f"op{3 * i}", f"op{3 * i + 1}", f"op{3 * i + 2}")


def test_coarsening_balances_work() -> None:
    """No group of a uniform graph has more than 1.5 times the mean work."""
    ops = [_op(f"op{i}", f"op{i // 2}" if i else "") for i in range(1000)]
    groups = _group(*ops, num_groups=20)
    work = np.bincount(groups.group_of_op)
    assert groups.num_groups <= 20
    assert work.max() <= 1.5 * 1000 / 20


def test_groups_are_numbered_by_their_first_op_in_topological_order() -> None:
    """The user's order does not matter for the numbers, the graph's does."""
    groups = _group(_op("c", "b"), _op("b", "a"), _op("a"))
    assert groups.group_of_op.tolist() == [2, 1, 0]
    assert groups.names == ("a", "b", "c")


def test_explain_names_each_rule_that_joined_the_op() -> None:
    """The words say the group, and the scope or colocation group behind it."""
    groups = _group(
        _op("layer/w", "", 0.1, colocation_group="layer/w"),
        _op("layer/matmul", "layer/w", 0.1),
        _op("layer/relu", "layer/matmul", 0.1),
        _op("w/update", "layer/w layer/matmul", 0.1, colocation_group="layer/w"),
        *_filler(),
    )
    assert groups.explain("layer/relu") == (
        "op 'layer/relu' is in op group 0, 'layer', of 4 ops\n"
        "- name scope 'layer' is one unit: now 2 ops\n"
        "- a unit all of whose tensors go to one other unit joins that: now 4 ops"
    )
    assert "- colocation group 'layer/w' must share a device: now 2 ops" in groups.explain(0)
    assert groups.explain("filler0").endswith("- no rule joined it with another op")


def test_explain_suggests_a_name() -> None:
    """An unknown op name gets the near one."""
    with pytest.raises(UnknownNameError, match="unknown op 'matmull'; did you mean 'matmul'"):
        _group(_op("matmul"), _op("add")).explain("matmull")


def test_one_op_and_one_group() -> None:
    """A graph of one op has one group; any graph can have just one."""
    assert _group(_op("only")).names == ("only",)
    assert _group(*_filler(), num_groups=1).group_of_op.tolist() == [0] * 40


@pytest.mark.parametrize("num_groups", [0, -3])
def test_less_than_one_group_is_refused(num_groups: int) -> None:
    """The message says what was given."""
    with pytest.raises(
        UsageError, match=f"num_groups is {num_groups}; expected a whole number >= 1"
    ):
        _group(_op("only"), num_groups=num_groups)


def test_device_kinds_that_exclude_each_other_need_their_own_groups() -> None:
    """Fewer groups than kinds that no device has together are refused, with the least number."""
    ops = [_op("a", device_kinds=("cpu",)), _op("b", device_kinds=("gpu",)), _op("c")]
    with pytest.raises(UsageError, match="num_groups is 1; expected at least 2: "):
        _group(*ops, num_groups=1)
    groups = _group(*ops, num_groups=2)
    assert groups.num_groups == 2
    assert not _together(groups, "a", "b")


def test_a_colocation_group_that_no_device_kind_can_run_is_refused() -> None:
    """The message names the group and an op that is at odds with the others."""
    with pytest.raises(GraphError, match="colocation group 'w': op 'b' needs .* kind gpu"):
        _group(
            _op("a", device_kinds=("cpu",), colocation_group="w"),
            _op("b", device_kinds=("gpu",), colocation_group="w"),
        )


def test_a_graph_without_work_or_bytes_is_grouped() -> None:
    """Nothing is divided by zero."""
    groups = _group(*(Op(f"op{i}", "NoOp", (f"^op{i - 1}",) if i else ()) for i in range(5)))
    assert 1 <= groups.num_groups <= 5
