"""Set-up of all tests: the shapes in the signatures of torch code are executed.

The hook has to stand before the modules are imported for the first time, so nothing here may import them.
"""

from __future__ import annotations

import sys

from jaxtyping import install_import_hook

EXECUTED = ("felid.models", "felid.search", "felid.quantize.nearest", "felid.quantize.residual", "felid.quantize.autoencoder")

_early = sorted(name for name in sys.modules if name.startswith(EXECUTED))
if _early:
    raise RuntimeError(f"{_early} were imported before their shape annotations could be made executable; import felid lazily")

install_import_hook(list(EXECUTED), "beartype.beartype")
