"""``python -m edgeopt`` is the command ``edgeopt``."""

from __future__ import annotations

import sys

from edgeopt.cli import main

sys.exit(main())
