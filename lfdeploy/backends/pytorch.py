"""The reference: a run's own fp32 module."""

from __future__ import annotations

from lfdeploy.backends.base import Backend, Floats, Session, Source, checked
from lfdeploy.confidence import temperature
from lfdeploy.devices import pick
from lfdeploy.errors import LfdeployError
from lfdeploy.images import Pixels


class TorchSession:
    """A `Classifier` in eval mode."""

    backend = "pytorch"

    def __init__(self, source: Source, device: str) -> None:
        import torch

        from lfdeploy.models.explain import explained, explains

        if source.run is None:
            raise LfdeployError(
                "The PyTorch backend needs the run that the artifact came from; name it with --run."
            )
        self.manifest, self.device = source.manifest, pick(device)
        torch.backends.cudnn.allow_tf32 = False  # the reference is fp32
        module = source.run.classifier(str(source.manifest["target"]))
        if explains(source.manifest):
            module = explained(module, str(source.manifest["target"]), source.run.spec)
        module = module.to(self.device)
        module.temperature = temperature(source.manifest)
        self.module = module.to(memory_format=torch.channels_last)

    def __call__(self, images: Pixels) -> tuple[Floats, Floats]:
        """Logits and probabilities."""
        found = self.named(images)
        return found["logits"], found["probabilities"]

    def named(self, images: Pixels) -> dict[str, Floats]:
        """Every output."""
        import torch

        with torch.inference_mode():
            found = self.module(torch.from_numpy(checked(images, self.manifest)).to(self.device))
        return {name: value.cpu().numpy() for name, value in zip(self.module.outputs, found, strict=True)}


def _open(source: Source, device: str) -> Session:
    return TorchSession(source, device)


def missing() -> str:
    """Why PyTorch cannot be used here, or an empty string; it is not imported for that."""
    from importlib.util import find_spec

    return "" if find_spec("torch") else "PyTorch is not installed. Run: pip install torch torchvision"


BACKEND = Backend("the run's own module, fp32", "run", "", missing, missing, None, _open)
