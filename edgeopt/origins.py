"""Where new nodes come from, and how much of it a file has room for.

Each node that a pass makes carries in its metadata, under ``edgeopt.origin``, the pass and the nodes of the original
that it stands for (``rewrite``). In a small model of many nodes these notes could outgrow what was saved: the result
of a lossless rewrite may have ``allowed_bytes``, and notes are shortened, then left out, to stay within.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeopt import saving
from edgeopt.graph import graphs
from edgeopt.message import Message
from edgeopt.rewrite import ORIGIN_KEY

_SHARE, _BYTES = 0.01, 4096


def allowed_bytes(file_bytes: int) -> int:
    """How large the file may be: the input, 1 % and 4 KiB."""
    return file_bytes + int(_SHARE * file_bytes) + _BYTES


def fit(model: ir.Model, message: Message, file_bytes: int) -> tuple[Message, list[str]]:
    """The message within ``allowed_bytes``, as far as notes decide on that, and warnings for the report.

    Args:
        model: Its notes are shortened in place.
        message: Of the model.
        file_bytes: Of the input.
    """
    limit, told = allowed_bytes(file_bytes), list[str]()
    for keep, done in ((True, "shortened"), (False, "left out")):
        if message.size > limit and (count := _shorten(model, keep=keep)):
            message = saving.made(model)
            told = [f"the origins of {count} nodes are {done} in the file, to keep its size; --explain lists them"]
    if message.size > limit:
        told.append(f"the file is {message.size - file_bytes} bytes larger than the input")
    return message, told


def _shorten(model: ir.Model, *, keep: bool) -> int:
    """Keep the pass and the first node only, or nothing; the number of nodes changed."""
    count = 0
    for graph in graphs(model):
        for node in graph:
            note = node.metadata_props.get(ORIGIN_KEY)
            if note is None:
                continue
            short = note.split(", ", 1)[0]
            if not keep:
                del node.metadata_props[ORIGIN_KEY]
            elif short == note:
                continue
            else:
                node.metadata_props[ORIGIN_KEY] = short
            count += 1
    return count
