"""Makes the pool known to threadpoolctl, in the way that it documents for libraries of their own.

It is no dependency: the controller is registered when threadpoolctl has been imported, before csoftmax or after it.
"""

import importlib.util
import sys
from typing import Any

NAME = "threadpoolctl"


def register(threadpoolctl: Any) -> None:
    """Add a controller of this pool to the module threadpoolctl, if it is recent enough to take any."""
    if not hasattr(threadpoolctl, "register"):
        return

    class Controller(threadpoolctl.LibController):
        """Reads and sets the number of threads of csoftmax, in the module that holds its pool."""

        user_api = "csoftmax"
        internal_api = "csoftmax"
        filename_prefixes = ("core.",)
        check_symbols = ("csoftmax_get_num_threads", "csoftmax_set_num_threads")

        def get_num_threads(self) -> int:
            return int(self.dynlib.csoftmax_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.csoftmax_set_num_threads(num_threads)

        def get_version(self) -> None:
            return None  # asked of every library whose file has the prefix, before its symbols are looked for

    threadpoolctl.register(Controller)


class Watcher:
    """Stands before the finders of imports until threadpoolctl is imported; it finds nothing else."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec of threadpoolctl, that registers the controller once the module has been executed."""
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: Any) -> None:
                execute(module)
                register(module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def watch() -> None:
    """Register with threadpoolctl now if it has been imported, else when it is."""
    if NAME in sys.modules:
        register(sys.modules[NAME])
    else:
        sys.meta_path.insert(0, Watcher())
