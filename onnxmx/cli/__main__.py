"""`python -m onnxmx.cli` is `onnxmx`."""

from __future__ import annotations

import sys

from onnxmx.cli import main

sys.exit(main())
