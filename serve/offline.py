"""Gradio reads these when it is imported: without them it asks for its newest
version and counts its users.
"""

from __future__ import annotations

import os

SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}


def go_offline() -> None:
    """Nothing is fetched from or told to the internet. Call it before the first import of gradio."""
    os.environ.update(SETTINGS)
