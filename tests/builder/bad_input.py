"""One way to write a model wrong, and what must hold of its error."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onnxmx.errors import OnnxmxError


@dataclass
class Bad:
    """What the user wrote, and the error it must give. here: it points at a line of `write`."""

    write: Callable[[], Any]
    error: type[OnnxmxError]
    says: str
    here: bool = True

    def provoke(self) -> None:
        with pytest.raises(self.error) as caught:
            self.write()
        error = caught.value
        assert type(error) is self.error
        assert re.search(self.says, str(error)), str(error)
        assert error.mend, "it does not say how to mend it"
        code = self.write.__code__
        assert error.at is not None
        file, _, line = error.at.rpartition(":")
        assert Path(file).name == Path(code.co_filename).name
        if self.here:
            assert int(line) in {line for *_, line in code.co_lines() if line}
