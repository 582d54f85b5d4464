"""The instruction set of a CPU, read from the text that Linux gives of it."""

from __future__ import annotations

import pytest

from lfdeploy import devices

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
