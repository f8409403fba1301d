"""The same steps by Hugging Face's optimum, over the exported graph: quantizer and optimizer.

optimum-onnx wants an older transformers than the rest of this package does, so it lives in an
environment of its own (``pip install 'artimuse[optimum,export,torch]'``). docs/decisions/0021 has
what it gives beside onnxruntime's own tools.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from ..artimuse_core.errors import MissingExtraError
from .products import quantized_products

LEVEL = 2
"""Of graph optimisation: 1 basic, 2 with fusions for any processor, 99 for this one alone."""


def require() -> None:
    """Raises MissingExtraError where optimum is not installed."""
    try:
        import optimum.onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("optimum-onnx", "optimum") from error


def quantize(stored: Path, work: Path) -> Path:
    """``ORTQuantizer``: dynamic int8 of the same matrix products, a scale a channel."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    config = AutoQuantizationConfig.avx512_vnni(
        is_static=False,
        per_channel=True,
        operators_to_quantize=["MatMul", "Gemm"],
        # By kind of operator alone, attention's products of activations would be among them.
        nodes_to_quantize=[str(node.name) for node in quantized_products(ir.load(stored))],
    )
    quantizer = ORTQuantizer(stored)
    written = quantizer.quantize(
        quantization_config=config, save_dir=work / "optimum", file_suffix="optimum",
        use_external_data_format=_has_data(stored),
    )  # fmt: skip
    return Path(written) / f"{stored.stem}_optimum.onnx"


def optimize(stored: Path, work: Path, *, heads: int, width: int, level: int = LEVEL) -> Path:
    """``ORTOptimizer``: its fusions for a transformer of ``heads`` heads and ``width`` channels."""
    from optimum.onnxruntime import ORTOptimizer
    from optimum.onnxruntime.configuration import OptimizationConfig
    from transformers import PretrainedConfig

    config = PretrainedConfig(hidden_size=width, num_attention_heads=heads)
    config.model_type = "vit"  # it knows no InternVL; most of the work is a vision transformer's
    optimizer = ORTOptimizer([stored], config)
    written = optimizer.optimize(
        OptimizationConfig(optimization_level=level),
        save_dir=work / "optimum",
        file_suffix="optimum",
    )
    return Path(written) / f"{stored.stem}_optimum.onnx"


def _has_data(stored: Path) -> bool:
    return any(stored.parent.glob("*.data"))
