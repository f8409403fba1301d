"""Does TensorRT's ONNX parser take a graph? Told without TensorRT, from its list of operators.

After the support matrix that TensorRT 10.0's parser documents (opsets 9 to 20).
"""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

OPSETS = range(9, 21)

_SUPPORTED = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast
    CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum
    DeformConv DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike
    Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization GRU HardSigmoid HardSwish
    Hardmax Identity If InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad Pow
    PRelu QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RNN RoiAlign Round Scan
    Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax
    Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK
    Transpose Trilu Unsqueeze Upsample Where Xor
    """.split()
)
_NO_BF16 = frozenset("DeformConv GridSample Mish NonMaxSuppression NonZero RoiAlign".split())
_CONSTANT_INPUT = {"CumSum": 1, "Slice": 3, "Squeeze": 1, "Unsqueeze": 1} | {
    op: 1 for op in _SUPPORTED if op.startswith("Reduce")
}
"""Which input must be an initializer or a constant: the axes."""
_TYPES = frozenset("FLOAT FLOAT16 BFLOAT16 INT32 INT64 BOOL FLOAT8E4M3FN INT8 INT4 UINT8".split())


def problems(model: ir.Model) -> list[str]:
    """What in the graph TensorRT refuses, a line each; empty where it takes all."""
    found = []
    opset = model.graph.opset_imports.get("", 0)
    if opset not in OPSETS:
        found.append(f"opset {opset}; TensorRT takes {OPSETS.start} to {OPSETS.stop - 1}")
    lines: Counter[str] = Counter()
    for node in model.graph:
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        types = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None}
        if node.domain or node.op_type not in _SUPPORTED:
            lines[f"operator {name} is not on its list"] += 1
        elif node.op_type in _NO_BF16 and ir.DataType.BFLOAT16 in types:
            lines[f"operator {name} takes no bf16"] += 1
        for kind in sorted(t.name for t in types if t is not None and t.name not in _TYPES):
            lines[f"operator {name} computes in {kind}"] += 1
        axes = _CONSTANT_INPUT.get(node.op_type)
        if axes is not None and len(node.inputs) > axes and not _constant(node.inputs[axes]):
            lines[f"the axes of {name} must be constant"] += 1
    return found + [f"{line} ({count} nodes)" for line, count in lines.items()]


def _constant(value: ir.Value | None) -> bool:
    if value is None or value.const_value is not None:
        return True
    producer = value.producer()
    return producer is not None and producer.op_type == "Constant"
