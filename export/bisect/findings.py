"""What a bisection found, as a document for programs and one sentence for a person."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from export.bisect.blame import Blame, Fault
from export.bisect.nodes import OUTPUT, Op
from export.bisect.tensors import Apart, Measured

COMPUTES = ("Conv", "Gemm", "MatMul", "ConvTranspose")


def number(value: float) -> float | None:
    """A float as JSON has it: None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def shown(value: float | None) -> str:
    """A share of a scale as it stands in a sentence."""
    return "an infinite amount" if value is None else "the bit" if value == 0 else f"{value:.1e}"


@dataclass(frozen=True)
class Findings:
    """The layer of each of the module's nodes, what was aligned, what was measured (None: the file does not
    run), fp16's own rounding.
    """

    layers: Mapping[str, str]
    blame: Blame
    measured: Measured | None
    halves: Mapping[str, Apart]

    def document(
        self, faults: Sequence[Fault], silent: Sequence[Fault], notes: Sequence[str], exporter: dict[str, Any]
    ) -> dict[str, Any]:
        """Everything, with the sentence."""
        rows = [self._row(tensor) for tensor in self.blame.tensors]
        found: dict[str, Any] = {
            "first": self._fault(faults[0], rows) if faults else None,
            "others": [self._fault(fault, rows) for fault in faults[1:]],
            "silent": [self._fault(fault, rows) for fault in silent],
            "layers": rows, "notes": list(notes), "exporter": exporter, "rounding": self._rounding(rows),
            "ran": self.measured is not None, "quantized": self.blame.theirs.quantized,
        }  # fmt: skip
        if found["quantized"]:
            found["largest_drop"] = min(
                (r for r in rows if r.get("own_sqnr_db") is not None and not r["op"].startswith("output")),
                key=lambda r: r["own_sqnr_db"], default=None,
            )  # fmt: skip
        return found | {"sentence": self._sentence(found)}

    def _where(self, ours: Op | None, theirs: Op | None) -> dict[str, Any]:
        """A pair of nodes as a person names it; ``node`` counts in the file, or in the module's graph where
        the file has none.
        """
        op = theirs or ours
        assert op is not None
        if ours is None:
            before = self.blame.after(op)
            layer = f"after {self.layers[before.name]}" if before else "prologue"
        else:
            layer = self.layers[ours.name]
        return {
            "node": None if op.kind.startswith(OUTPUT) else op.number,
            "name": op.name,
            "op": op.kind,
            "layer": layer,
            "module_node": ours.name if ours else None,
        }

    def _row(self, tensor: str) -> dict[str, Any]:
        blame = self.blame
        i, j = blame.our_makers[tensor], blame.their_makers.get(blame.tensors[tensor])
        if j is None:
            j = blame.twin.get(i)
        # a quantiser lets a ReLU vanish into the convolution before it: the layer is the convolution's
        if blame.theirs.quantized:
            i = next((k for k in reversed(blame.region(tensor)) if blame.ours.ops[k].kind in COMPUTES), i)
        row = self._where(blame.ours.ops[i], None if j is None else blame.theirs.ops[j]) | {"tensor": tensor}
        if self.measured is not None:
            chain, own = self.measured.chain[tensor], self.measured.own[tensor]
            row |= {"difference": number(chain.relative), "own": number(own.relative)}
            if blame.theirs.quantized:
                row |= {
                    "sqnr_db": number(chain.sqnr),
                    "own_sqnr_db": number(own.sqnr),
                    "weights_sqnr_db": self._weights(i),
                }
        if tensor in self.halves:
            row["rounding"] = number(self.halves[tensor].relative)
        return row

    def _weights(self, i: int) -> float | None:
        """Signal to noise of a layer's weights alone, in dB."""
        j = self.blame.twin.get(i)
        if j is None:
            return None
        apart = Apart()
        ours, theirs = self.blame.ours.ops[i].constants, self.blame.theirs.ops[j].constants
        if 1 in ours and 1 in theirs:
            apart.add(ours[1].array, theirs[1].array)
        return number(apart.sqnr)

    def _fault(self, fault: Fault, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        index = next((k for k, row in enumerate(rows) if row["tensor"] == fault.tensor), None)
        before = [row.get("difference") for row in rows[:index]]
        made = self._where(fault.ours, fault.theirs) | {
            "kind": fault.kind,
            "what": list(fault.what),
            "tensor": fault.tensor or None,
        }
        if index is not None and self.measured is not None:
            made |= {"difference": rows[index]["difference"], "own": rows[index]["own"], "row": index}
            finite = [value for value in before if value is not None]
            made["before"] = max(finite, default=0.0) if len(finite) == len(before) else None
        return made

    def _rounding(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """What half precision does to the clean graph: its largest share of a scale, and where it
        first overflows.
        """
        known = [row for row in rows if "rounding" in row]
        if not known:
            return None
        lost = next((row for row in known if row["rounding"] is None), None)
        largest = max(
            (row for row in known if row["rounding"] is not None),
            key=lambda row: row["rounding"],
            default=None,
        )
        return {
            "largest": largest and largest["rounding"], "at": largest and label(largest),
            "end": known[-1]["rounding"], "overflows": lost and label(lost),
        }  # fmt: skip

    def _sentence(self, found: Mapping[str, Any]) -> str:
        first, rows = found["first"], found["layers"]
        if found["exporter"]["first"]:
            told = (
                "The exporter's own graph is not the PyTorch module: first at "
                f"{found['exporter']['first']}, by "
            )
            return (
                told + f"{shown(found['exporter']['by'])} of its scale. No file made by these versions of "
                "torch and onnx can be right."
            )
        if not found["ran"] and first is None:
            return "The file cannot be run, and no node is seen to differ from the module's."
        if found["quantized"]:
            return _largest_drop(found, rows)
        if first is None and not rows:
            return "No tensor of this file could be matched with one of the module's."
        if first is None:
            largest = max(rows, key=lambda row: math.inf if row["difference"] is None else row["difference"])
            most = (
                f"No layer differs by more than {shown(largest['difference'])} of its scale; largest at "
                f"{label(largest)}"
            )
            told = most if largest["difference"] else "No layer differs: all tensors agree to the bit"
            told += "".join(f"; but {note}" for note in found["notes"]) + "."
            if found["silent"]:
                told += (
                    " Without effect on these pictures: "
                    f"{say_fault(found['silent'][0])}{_more(found['silent'][1:])}."
                )
            return told
        before = f"; everything before agrees to {shown(first['before'])}" if "before" in first else ""
        return f"First difference: {say_fault(first)}{before}{_more(found['others'])}."


def _largest_drop(found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The sentence about a quantised file."""
    worst, end = (
        found["largest_drop"],
        next((r for r in reversed(rows) if r["tensor"] == "logits"), None),
    )
    if worst is None:
        return "No tensor of this quantised file could be matched with the module's."
    weights = (
        "" if worst["weights_sqnr_db"] is None else f", its weights alone {worst['weights_sqnr_db']:.1f} dB"
    )
    tail = "" if end is None or end["sqnr_db"] is None else f"; the logits end at {end['sqnr_db']:.1f} dB"
    return (
        f"Largest drop: {label(worst)}: {worst['own_sqnr_db']:.1f} dB signal to noise of its "
        f"own{weights}{tail}."
    )


def label(row: Mapping[str, Any]) -> str:
    """Like ``node 14 (Conv, stages.1.0.conv2)``."""
    if row["op"].startswith(OUTPUT):
        return str(row["op"])
    where = "the module's node" if row.get("kind") == "removed" else "node"
    return f"{where} {row['node']} ({row['op']}, {row['layer']})"


def say_fault(fault: Mapping[str, Any]) -> str:
    """A node and what is wrong with it."""
    kept = fault["what"][:2]
    return f"{label(fault)}: {'; '.join(kept)}" + (
        f" and {len(fault['what']) - 2} more" if len(fault["what"]) > 2 else ""
    )


def _more(faults: Sequence[Mapping[str, Any]]) -> str:
    return (
        ""
        if not faults
        else f"; {len(faults)} more node{'s' * (len(faults) > 1)} differ{'s' * (len(faults) == 1)}"
    )
