"""What a runner hands back: tidy tables and figures, by name."""

from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Results:
    """Each table becomes `<name>.csv` in the run folder, each figure `<name>.png`."""

    tables: dict[str, pd.DataFrame]
    figures: dict[str, Figure] = field(default_factory=dict)
