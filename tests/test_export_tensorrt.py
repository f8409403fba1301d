"""What can be told of TensorRT without a GPU: plans, keys, operators, and who is asked in turn."""

import json
import logging
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from click.testing import CliRunner

from artimuse import Scorer
from artimuse.artimuse_core import bundle, engines, providers, tensorrt
from artimuse.artimuse_core.errors import ModelError, UsageError
from artimuse.artimuse_core.preprocess import preprocess_batch
from artimuse.artimuse_core.providers import CPU, CUDA, TENSORRT
from artimuse.artimuse_core.tensorrt import Machine, Plan
from artimuse.cli import main
from artimuse.export import tensorrt_check, to_onnx, to_tensorrt

MACHINE = Machine("NVIDIA H100", "9.0", "580.65", "10.16.1", "1.32.0")
PLAN = Plan("fp16", min_batch=2, opt_batch=3, max_batch=4)


@pytest.mark.parametrize("wrong", [{"min_batch": 0}, {"max_batch": 4}, {"workspace_gb": 0}])
def test_plans_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError, match="expected"):
        Plan("fp16", **wrong)


@pytest.mark.parametrize(
    ("device", "available", "planned", "wanted"),
    [
        ("auto", [TENSORRT, CUDA, CPU], True, [TENSORRT, CUDA, CPU]),
        ("auto", [TENSORRT, CUDA, CPU], False, [CUDA, CPU]),
        ("auto", [CPU], False, [CPU]),
        ("tensorrt", [TENSORRT, CUDA, CPU], True, [TENSORRT, CUDA, CPU]),
        ("cuda:1", [TENSORRT, CUDA, CPU], True, [CUDA, CPU]),
        ("cpu", [TENSORRT, CUDA, CPU], True, [CPU]),
    ],
)
def test_providers_are_asked_the_best_first(device, available, planned, wanted) -> None:
    assert providers.choose(device, available, tensorrt=planned) == wanted


def test_no_device_falls_back_unsaid(caplog) -> None:
    with pytest.raises(UsageError, match="no TensorRT"):
        providers.choose("tensorrt", [CUDA, CPU], tensorrt=True)
    with pytest.raises(UsageError, match="artimuse export tensorrt"):
        providers.choose("tensorrt", [TENSORRT, CUDA, CPU])
    with pytest.raises(UsageError, match="no CUDA"):
        providers.choose("cuda", [CPU])
    with pytest.raises(ModelError, match="could not start cuda"):
        providers.started([CUDA, CPU], [CPU], "cuda")
    assert caplog.records == []
    assert providers.choose("auto", [CPU], tensorrt=True) == [CPU]
    assert "no tensorrt and no cuda: computing on cpu" in caplog.text
    assert providers.started([CUDA, CPU], [CPU], "auto") == "cpu"
    assert "could not start cuda" in caplog.text


def test_our_graph_is_on_tensorrts_list_and_others_are_not(tiny_bundle) -> None:
    graph = ir.load(tiny_bundle / to_onnx.GRAPH)
    assert tensorrt_check.problems(graph) == []
    graph.graph.opset_imports[""] = 23
    graph.graph[3].op_type = "RMSNormalization"
    graph.graph[4].domain = "com.microsoft"
    refused = "\n".join(tensorrt_check.problems(graph))
    assert "opset 23" in refused
    assert "operator RMSNormalization is not on its list (1 nodes)" in refused
    assert "com.microsoft." in refused


def test_axes_that_are_computed_are_refused() -> None:
    made = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[2,3] x, int64[1] axes) '
        "=> (float[2] y) { y = ReduceMean(x, axes) }"
    )
    assert tensorrt_check.problems(ir.from_proto(made)) == [
        "the axes of ReduceMean must be constant (1 nodes)"
    ]


def test_the_machine_is_read_from_nvidia_smi(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match="no NVIDIA GPU"):
        tensorrt.this_machine()
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'NVIDIA H100, 9.0, 580.65'\n")
    script.chmod(0o755)
    monkeypatch.setattr(tensorrt, "_tensorrt_version", lambda: "")
    with pytest.raises(ModelError, match="TensorRT is not installed"):
        tensorrt.this_machine()
    monkeypatch.setattr(tensorrt, "_tensorrt_version", lambda: "10.16.1")
    assert tensorrt.this_machine() == replace(MACHINE, onnxruntime=onnxruntime.__version__)


class Gpu:
    """onnxruntime as it behaves on a GPU with TensorRT, computing on the CPU."""

    def __init__(self, monkeypatch) -> None:
        self.built: list[dict] = []
        self.opened: list[Path] = []
        self.machine = MACHINE
        self.context_starts = True
        real = onnxruntime.InferenceSession
        fake = self

        class Session(real):
            def __init__(self, graph, options, asked, settings) -> None:
                self.asked = asked
                if isinstance(graph, Path):
                    fake.opened.append(graph)
                    if not fake.context_starts:
                        raise RuntimeError("engine of another version")
                    graph = graph.read_bytes()
                elif asked[0] == TENSORRT:
                    fake.built.append(settings[0])
                    home = Path(settings[0]["trt_ep_context_file_path"])
                    (home / "fused.engine").write_bytes(b"engine")
                    (home / tensorrt.CONTEXT).write_bytes(graph)
                super().__init__(graph, options, [CPU])

            def get_providers(self) -> list[str]:
                return self.asked

        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
        monkeypatch.setattr(tensorrt, "this_machine", lambda index=0: self.machine)
        # Bound to the CPU's memory: the same calls, another device.
        bound = engines.OnnxEngine._run_bound

        def on_cpu(engine, output, pixels):
            engine._memory = "cpu"
            try:
                return bound(engine, output, pixels)
            finally:
                engine._memory = "cuda"

        monkeypatch.setattr(engines.OnnxEngine, "_run_bound", on_cpu)


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    return Gpu(monkeypatch)


@pytest.fixture
def planned(tiny_bundle, tmp_path) -> Path:
    """The tiny bundle as if exported for TensorRT."""
    directory = tmp_path / "planned"
    directory.mkdir()
    for file in tiny_bundle.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    bundle.write(directory, replace(bundle.read(directory), tensorrt=asdict(PLAN)))
    return directory


def test_an_engine_is_built_once_and_for_the_plan(gpu, planned, tiny_bundle, pictures) -> None:
    scorer = Scorer.load(planned)
    assert scorer.engine.device == "tensorrt"
    assert Scorer.load(planned, "tensorrt").engine.device == "tensorrt"
    (settings,) = gpu.built
    assert [path.name for path in gpu.opened] == [tensorrt.CONTEXT]
    size = scorer.input_size
    assert settings["trt_profile_min_shapes"] == f"pixel_values:2x3x{size}x{size}"
    assert settings["trt_profile_max_shapes"] == f"pixel_values:4x3x{size}x{size}"
    assert (settings["trt_fp16_enable"], settings["trt_bf16_enable"]) == ("True", "False")
    assert settings["trt_max_workspace_size"] == str(4 * 2**30)
    assert not Path(settings["trt_engine_cache_path"]).is_absolute()
    # One image is fewer than the profile has, nine are more.
    pixels = preprocess_batch(pictures[:9], size)
    wanted = Scorer.load(tiny_bundle, "cpu").engine.score_logits(pixels)
    np.testing.assert_allclose(scorer.engine.score_logits(pixels), wanted, atol=1e-4)
    np.testing.assert_allclose(scorer.engine.score_logits(pixels[:1]), wanted[:1], atol=1e-4)


@pytest.mark.parametrize("change", ["driver", "tensorrt", "engine", "context", "facts"])
def test_an_engine_that_does_not_fit_is_built_again(gpu, planned, caplog, change: str) -> None:
    Scorer.load(planned)
    assert "there is none yet" in caplog.text
    caplog.clear()
    (engine,) = planned.glob("engines/*/fused.engine")
    if change == "engine":
        engine.write_bytes(b"tampered")
        reason = "fused.engine is missing or changed"
    elif change == "facts":
        (engine.parent / tensorrt.FACTS).write_text("{")
        reason = "engine.json cannot be read"
    elif change == "context":
        gpu.context_starts = False
        reason = "engine of another version"
    else:
        gpu.machine = replace(MACHINE, **{change: "99.9"})
        reason = f"only one for {MACHINE}"
    assert Scorer.load(planned).engine.device == "tensorrt"
    assert len(gpu.built) == 2
    assert reason in caplog.text
    assert "takes minutes" in caplog.text


def test_without_tensorrt_the_next_device_is_named(gpu, planned, monkeypatch, caplog) -> None:
    def none(index: int = 0) -> Machine:
        raise ModelError("TensorRT is not installed")

    monkeypatch.setattr(tensorrt, "this_machine", none)
    assert Scorer.load(planned).engine.device == "cuda"
    assert "no TensorRT here (TensorRT is not installed)" in caplog.text
    with pytest.raises(ModelError, match="TensorRT is not installed"):
        Scorer.load(planned, "tensorrt")


def test_the_device_that_scores_is_logged(tiny_bundle, caplog) -> None:
    with caplog.at_level(logging.INFO):
        Scorer.load(tiny_bundle, "cpu")
    assert CPU in caplog.text


def test_trtexec_builds_a_plain_engine(tmp_path, monkeypatch) -> None:
    script = tmp_path / "trtexec"
    script.write_text(
        '#!/bin/sh\nfor a; do case "$a" in --saveEngine=*) echo "$@" > "${a#*=}";; esac; done\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    to_tensorrt.plain_engine(tmp_path / "score.onnx", tmp_path / "score.engine", PLAN, 448)
    asked = (tmp_path / "score.engine").read_text()
    assert "--optShapes=pixel_values:3x3x448x448" in asked
    assert "--stronglyTyped" in asked
    script.write_text("#!/bin/sh\necho 'no kernel' >&2\nexit 1\n")
    with pytest.raises(ModelError, match="trtexec failed: no kernel"):
        to_tensorrt.plain_engine(tmp_path / "score.onnx", tmp_path / "e", PLAN, 448)


def test_a_dry_run_needs_no_gpu_and_an_export_says_what_is_missing(
    tiny_checkpoint, tiny_bundle, tmp_path
) -> None:
    runner, output = CliRunner(), tmp_path / "bundle"
    wanted = ["export", "tensorrt", "--model", str(tiny_checkpoint), "--precision", "bf16"]
    dry = runner.invoke(main, [*wanted, "--max-batch", "16", "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "max pixel_values:16x3x32x32" in dry.stdout
    assert "operators: all on TensorRT's list" in dry.stdout
    assert "missing here: onnxruntime with its TensorRT provider" in dry.stdout
    real = runner.invoke(main, [*wanted, "--output", str(output)])
    assert real.exit_code == 1
    assert "missing: onnxruntime with its TensorRT provider" in real.stderr
    assert not output.exists()
    # As nano is: a bundle in fp32, and a checkpoint that can be had in bf16.
    both = shutil.copytree(tiny_checkpoint, tmp_path / "both")
    shutil.copytree(tiny_bundle, both, dirs_exist_ok=True)
    assert runner.invoke(main, [*wanted[:3], str(both), *wanted[4:], "--dry-run"]).exit_code == 0
    wanted[3] = str(tiny_bundle)
    other = runner.invoke(main, [*wanted, "--dry-run"])
    assert (other.exit_code, "is fp32" in other.stderr) == (2, True)


def test_fp8_is_planned_anywhere_and_asks_for_a_typed_tensorrt(
    gpu, monkeypatch, tiny_checkpoint, tmp_path
) -> None:
    plan = replace(PLAN, precision="fp8")
    assert to_tensorrt.survey(tiny_checkpoint, plan).operators == []
    monkeypatch.setattr(tensorrt, "missing", lambda index=0: [])
    gpu.machine = replace(MACHINE, tensorrt="10.13.2")
    with pytest.raises(ModelError, match=r"from TensorRT 11 on, here is 10\.13\.2"):
        to_tensorrt.export_tensorrt(tiny_checkpoint, tmp_path / "fp8", plan)


def test_where_no_engine_can_be_kept_it_says_what_to_do(tiny_bundle, monkeypatch) -> None:
    bundled = bundle.read(tiny_bundle)
    monkeypatch.setattr(tensorrt.os, "access", lambda *_: False)  # root may write anywhere
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert "cache" in str(tensorrt.home(tiny_bundle, bundled, PLAN, MACHINE))
    monkeypatch.setitem(sys.modules, "platformdirs", None)  # as where ComfyUI alone is installed
    with pytest.raises(ModelError, match=r"is read-only; .* pip install platformdirs"):
        tensorrt.home(tiny_bundle, bundled, PLAN, MACHINE)


def test_facts_are_json(tiny_bundle) -> None:
    manifest = bundle.read(tiny_bundle)
    facts = tensorrt.facts(manifest, PLAN, MACHINE)
    assert json.loads(json.dumps(facts)) == facts
