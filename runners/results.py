"""What a runner hands back: tidy tables and figures, by name."""

from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from runners.pruning.saved import Pruned


@dataclass(frozen=True)
class Results:
    """Each table becomes `<name>.csv` in the run folder, each figure `<name>.png`, each network a folder `<name>/`."""

    tables: dict[str, pd.DataFrame]
    figures: dict[str, Figure] = field(default_factory=dict)
    networks: dict[str, Pruned] = field(default_factory=dict)
