"""``python -m tests.random_graphs SEED``: its graph; if something is wrong, the smallest that still shows it."""

from __future__ import annotations

import sys

from tests.random_graphs.judging import judge
from tests.random_graphs.making import graph
from tests.random_graphs.shrinking import shrink, text

if __name__ == "__main__":
    found = graph(int(sys.argv[1]))
    if said := judge(found).problems:
        found = shrink(found, lambda m: bool(judge(m).problems))
        said += ["of the smallest graph:", *judge(found).problems]
    print(text(found), *said, sep="\n")
