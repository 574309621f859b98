"""edgeopt: makes trained ONNX models smaller and faster for edge devices, with proof."""

from __future__ import annotations
