"""bf16 on a machine without a GPU: fp32 kernels, rounded to bf16 after every operator.

onnxruntime's CPU provider computes nothing in bf16. A GPU multiplies bf16 values, sums in fp32 and
rounds the result; so does this graph, which is how a bf16 artifact is verified while it is made.
"""

from __future__ import annotations

import onnx_ir as ir

_BF16, _FP32 = ir.DataType.BFLOAT16, ir.DataType.FLOAT


def emulate_bf16(model: ir.Model) -> ir.Model:
    """Change a bf16 graph in place into one that the CPU provider runs; returns it."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        if value.dtype == _BF16:
            cast = _cast(value, _FP32)
            _use_instead(value, cast.outputs[0], but=cast)
            graph.insert_before(graph[0], cast)
    for node in list(graph):
        for output in node.outputs:
            if output.dtype != _BF16 or not output.uses():
                continue
            chain = [_cast(output, _FP32)]
            if not _rounds(node):
                output.type = ir.TensorType(_FP32)
                chain = [_cast(output, _BF16)]
                chain.append(_cast(chain[0].outputs[0], _FP32))
            _use_instead(output, chain[-1].outputs[0], but=chain[0])
            graph.insert_after(node, chain)
    return model


def _rounds(node: ir.Node) -> bool:
    """A cast to bf16 says itself what it gives; initializers were cast above."""
    return node.op_type == "Cast" and node.attributes["to"].as_int() == _BF16.value


def _cast(value: ir.Value, to: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": to.value})
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(to), value.shape
    return node


def _use_instead(value: ir.Value, other: ir.Value, *, but: ir.Node) -> None:
    for user, index in list(value.uses()):
        if user is not but:
            user.replace_input_with(index, other)
