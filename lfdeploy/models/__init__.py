"""Networks: the table of architectures, and how peers become what is shipped."""

from __future__ import annotations

from lfdeploy.models.architectures import (
    ALIASES,
    ARCHITECTURES,
    Architecture,
    architecture,
    canonical,
    create,
)

__all__ = ["ALIASES", "ARCHITECTURES", "Architecture", "architecture", "canonical", "create"]
