"""Faults that `make cluster` plants in every process of a job that has this folder on its path.

`SHARELM_PLANT` names them: `slow` makes every decoding step five times as long, `lossy` lowers the learning rate a
hundredfold. No step's name changes by it, as none would by a slower disk or a broken library.
"""

import importlib.abc
import os
import sys

PLANTED = os.environ.get("SHARELM_PLANT", "").split(",")


class Plant(importlib.abc.MetaPathFinder):
    """Alters a module just before another one imports it."""

    def find_spec(self, name, path=None, target=None):
        """Find nothing; plant the fault."""
        if name == "sharelm.training.run" and "lossy" in PLANTED:
            import sharelm.training.rate as rate

            usual = rate.learning_rate
            rate.learning_rate = lambda *given: usual(*given) / 100
        if name == "sharelm.cost.measurement" and "slow" in PLANTED:
            import time

            import sharelm.cost.serving as serving

            usual_decode = serving.Request.decode

            def decode(self, *given):
                start = time.perf_counter()
                found = usual_decode(self, *given)
                time.sleep(4 * (time.perf_counter() - start))
                return found

            serving.Request.decode = decode


sys.meta_path.insert(0, Plant())
