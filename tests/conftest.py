"""Set-up of all tests: the shapes in the signatures of torch code are executed.

The hook has to stand before the modules are imported for the first time, so nothing here may import them.
"""

from __future__ import annotations

import os
import sys

from jaxtyping import install_import_hook

if "PYTEST_XDIST_WORKER" in os.environ:  # processes that share the cores; read where torch and polars are loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("POLARS_MAX_THREADS", "1")

EXECUTED = ("felid.models", "felid.search", "felid.quantize.nearest", "felid.quantize.residual", "felid.quantize.autoencoder")

_early = sorted(name for name in sys.modules if name.startswith(EXECUTED))
if _early:
    raise RuntimeError(f"{_early} were imported before their shape annotations could be made executable; import felid lazily")

install_import_hook(list(EXECUTED), "beartype.beartype")
