"""The numbers that a step computes with: fp32 exactly, or shorter ones where a device has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lfdeploy.console import say
from lfdeploy.errors import LfdeployError
from training.cohort import Cohort

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def has_bf16(device: str) -> bool:
    """Whether the device multiplies bf16 in hardware; CUDA emulates it elsewhere, slower than fp32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported()


def exact_fp32(device: str) -> None:
    """Make fp32 mean fp32 on CUDA too, where convolutions round their inputs to TF32's ten bits, and the same
    each time.
    """
    if device == "cuda":
        torch.backends.cudnn.deterministic = True  # else its sums of gradients come in any order
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def reproducible(asked: bool) -> Iterator[None]:
    """With ``asked``, whatever PyTorch runs within has one order of sums; as it was afterwards.

    cuBLAS must know before CUDA begins, by a variable. Raises `LfdeployError` for an operation that has no
    such kernel here.
    """
    if not asked:
        yield
        return
    was, only_warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    unset = CUBLAS not in os.environ
    if unset and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        say(f"Note: CUDA began before --deterministic: set {CUBLAS}=:4096:8 before Python starts.")
    os.environ.setdefault(CUBLAS, ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        said = str(error).split(". ")[0].rstrip(".")
        raise LfdeployError(f"{said}. Train without --deterministic, or on the CPU: --device cpu") from None
    finally:
        torch.use_deterministic_algorithms(was, warn_only=only_warned)
        if unset:
            del os.environ[CUBLAS]


def settle(device: str) -> None:
    """Wait until the device has done what was asked of it: a clock read afterwards tells the truth."""
    if device == "cuda":
        torch.cuda.synchronize()


def shorter(asked: str, device: str) -> str:
    """The precision that is asked for; auto is bf16 where the device has it, else fp16 on a GPU."""
    if asked != "auto":
        return asked
    if has_bf16(device):
        return "bf16"
    return "fp16" if device == "cuda" else "fp32"


def pick_precision(asked: str, cohort: Cohort, device: str, sample: Tensor) -> tuple[torch.dtype, str]:
    """The forward pass's dtype, and why. By itself a shorter one is taken only where a batch agrees with
    fp32.
    """
    name = shorter(asked, device)
    if name == "fp32":
        return torch.float32, "fp32" if device == "cpu" else "fp32 (TF32 is off)"
    dtype = torch.bfloat16 if name == "bf16" else torch.float16
    was = cohort.training
    cohort.train()
    with torch.no_grad():
        state = {name: value.clone() for name, value in cohort.state_dict().items()}
        plain = cohort.see(sample)
        with torch.autocast(device, dtype=dtype):
            short = cohort.see(sample)
        cohort.load_state_dict(state)
    cohort.train(was)
    spread = {name: plain[name].std().clamp_min(1e-6) for name in cohort.names}
    worst = max(
        ((short[name].float() - plain[name]).pow(2).mean().sqrt() / spread[name]).item()
        for name in cohort.names
    )
    away = f"{100 * worst:.1f} % of the logits' spread away from fp32"
    if worst > 0.2 or worst != worst:
        if asked == name:
            raise LfdeployError(
                f"--precision {name} does not suit this network: the first batch is {away}. Use "
                "--precision fp32."
            )
        return torch.float32, f"fp32 ({name} put the first batch {away})"
    if device == "cpu" and not (name == "bf16" and has_bf16(device)):
        away += "; most CPUs compute it in software, many times slower than fp32"
    return dtype, f"{name} (first batch: {away})"
