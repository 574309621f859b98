"""``python -m tests.random_graphs SEED``: its graph; if something is wrong, the smallest that still shows it."""

from __future__ import annotations

import sys

from tests.random_graphs.making import graph
from tests.random_graphs.shrinking import shrink, text, wrong

if __name__ == "__main__":
    found = graph(int(sys.argv[1]))
    if said := wrong(found):
        found = shrink(found, lambda m: bool(wrong(m)))
        said += ["of the smallest graph:", *wrong(found)]
    print(text(found), *said, sep="\n")
