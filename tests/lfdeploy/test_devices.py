"""The instruction set of a CPU, read from what Linux says of it; the GPU that a library can really use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lfdeploy import devices
from lfdeploy.errors import LfdeployError

AVX2 = "fpu sse4_1 avx f16c avx2"
AVX512 = AVX2 + " avx512f avx512bw avx512dq avx512vl"
VNNI = AVX512 + " avx512_vnni"

#: flags of one processor, its name, and whether sums of int8 products may overflow on it
CPUS = {
    "Zen 3": (AVX2, "avx2", True),
    "Skylake-SP": (AVX512, "avx512", True),
    "Cascade Lake": (VNNI, "avx512_vnni", False),
    "Zen 4": (VNNI + " avx512_bf16", "avx512_bf16", False),
    "Alder Lake": (AVX2 + " avx_vnni", "avx_vnni", False),
    "Sapphire Rapids": (VNNI + " avx512_bf16 avx_vnni amx_bf16 amx_tile amx_int8", "amx_int8", False),
    "Nehalem": ("fpu sse4_1", "x86_64", True),
}


@pytest.mark.parametrize("cpu", CPUS)
def test_instruction_sets_by_their_flags(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags, name, saturates = CPUS[cpu]
    text = f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t:\n"
    assert devices.best_instruction_set(text) == name
    monkeypatch.setattr(devices, "instruction_set", lambda: name)
    assert devices.int8_saturates() is saturates


def test_what_one_processor_lacks_the_machine_lacks() -> None:
    assert devices.best_instruction_set(f"flags : {VNNI}\nflags : {AVX2}\n") == "avx2"


def test_without_flags_the_architecture_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert devices.best_instruction_set("processor : 0\nFeatures : fp asimd\n") == "aarch64"
    monkeypatch.setattr(devices, "instruction_set", lambda: "aarch64")
    assert not devices.int8_saturates()


def test_this_machine_has_a_name() -> None:
    assert devices.instruction_set()


@pytest.fixture
def shown_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A driver that shows a GPU; whether a library can use it is a test's own."""
    monkeypatch.setattr(devices, "gpus", lambda: (devices.Gpu("Shown", "8.6"),))
    for asked in (devices.unusable, devices._say_cpu):
        asked.cache_clear()
    yield
    for asked in (devices.unusable, devices._say_cpu):
        asked.cache_clear()


def fails() -> None:
    raise RuntimeError("the driver is too old. Install a newer one.\nA second line")


@pytest.mark.parametrize("library", sorted(devices.PROBES))
def test_auto_means_what_works_and_says_so_once(
    library: str, shown_gpu: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(devices.PROBES, library, fails)
    assert [devices.pick(asked, library) for asked in ("auto", "auto", "cpu")] == ["cpu"] * 3
    reason = f"{library} cannot use the GPU that the driver shows (Shown): the driver is too old"
    assert capsys.readouterr().err == f"Note: the CPU is used: {reason}.\n"
    with pytest.raises(LfdeployError) as refused:
        devices.pick("cuda", library)
    assert str(refused.value) == f"--device cuda: {reason}. Use --device cpu."
    devices.unusable.cache_clear()
    monkeypatch.setitem(devices.PROBES, library, lambda: None)
    assert [devices.pick(asked, library) for asked in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


def test_probes_ask_the_library_itself(shown_gpu: None) -> None:
    """On a machine without a GPU each finds that out by itself, whatever the driver is said to show."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for library in devices.PROBES:
        assert "cannot use the GPU" in devices.unusable(library)


def test_an_artifact_on_a_gpu_that_its_library_cannot_use() -> None:
    from lfdeploy.artifact import Artifact
    from lfdeploy.doctor import diagnose

    manifest = {"target": "peer0", "precision": "fp32", "run": {"name": "mine"}, "format": "onnx"}
    gpu, unusable = [devices.Gpu("Shown", "8.6")], "onnxruntime cannot use it"
    found = diagnose(Artifact(Path("x"), manifest), gpu, {"onnxruntime": "1.31"}, unusable=unusable)
    assert (found.state, found.reason) == ("runs here", f"onnxruntime on the CPU; {unusable}")
    engine = {"package": "tensorrt", "version": "11.4", "compute_capabilities": ["8.6"]}
    built = Artifact(Path("x"), manifest | {"format": "trt", "engine": engine})
    found = diagnose(built, gpu, {"tensorrt": "11.4"}, unusable="torch cannot use it")
    assert (found.state, "torch cannot use it" in found.reason) == ("no GPU", True)
    assert diagnose(built, gpu, {"tensorrt": "11.4"}).state == "runs here"
