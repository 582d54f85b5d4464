"""Pieces of a step side by side on a GPU, where each chain of them has a stream of its own.

A small network's kernel fills a small part of a GPU, so what does not read each other costs the time of the
longest. Autograd runs the backward pass of each piece on the stream of its forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from training.parts import Nodes, Part, run
from training.plan import Plan


def lanes_of(plan: Plan) -> list[int]:
    """For each piece the number of its lane: that of the first piece it reads which nobody went on from, else
    a new one.
    """
    lanes: list[int] = []
    last: dict[int, int] = {}  # of each lane
    for number, before in enumerate(plan.before):
        free = [lanes[other] for other in sorted(before) if last[lanes[other]] == other]
        lane = free[0] if free else len(last)
        lanes.append(lane)
        last[lane] = number
    return lanes


class Lanes:
    """Streams for the pieces of a plan; the first lane is the stream that is current. Where there are no
    streams the pieces run one after the other.
    """

    def __init__(self, plan: Plan, device: str) -> None:
        self.plan, self.lanes, self.device = plan, lanes_of(plan), device
        more = max(self.lanes, default=0) if device == "cuda" else 0
        self.streams = [torch.cuda.Stream() for _ in range(more)]  # type: ignore[no-untyped-call]
        self.crossed = {
            other
            for number, before in enumerate(plan.before)
            for other in before
            if self.lanes[other] != self.lanes[number]
        }

    def forward(self, given: Nodes, tail: Iterable[Part]) -> Nodes:
        """All tensors, those of ``tail`` too, to be read on the current stream.

        Whoever computes gradients must hold them until the backward pass is asked for: memory that one stream
        gives back may be written by another while a third still reads it.
        """
        nodes = dict(given)
        if self.device != "cuda":
            for link in self.plan.links:
                nodes.update(link.work(*(nodes[name] for name in link.reads)))
            return run(tail, nodes)
        here = torch.cuda.current_stream()
        streams: list[Any] = [here, *self.streams]
        for stream in self.streams:
            stream.wait_stream(here)
        events: dict[int, Any] = {}
        for number, link in enumerate(self.plan.links):
            stream = streams[self.lanes[number]]
            for other in sorted(self.plan.before[number] & self.crossed):
                stream.wait_event(events[other])
            with torch.cuda.stream(stream):
                nodes.update(link.work(*(nodes[name] for name in link.reads)))
            if number in self.crossed:
                events[number] = stream.record_event()
        for stream in self.streams:
            here.wait_stream(stream)
        return run(tail, nodes)
