"""The stages that pruning experiments share: what is kept of each, and what goes into it."""

from runners.storage.keys import RULE, Stage

DATASET = Stage("dataset", 1, options=("dataset", "labels"), contents=("data",))
GIVEN = Stage("given", 1, options=("model", "weights", "weights_set"))
TRAINED = Stage(
    "trained",
    1,
    after=(DATASET,),
    options=("model", "optimizer", "recipe", "precision", "seed"),
    unless=("weights", GIVEN),
)
SCORES = Stage("scores", 3, after=(TRAINED, DATASET), options=("compared", "score_share", "score_batch_size"))
SELECTION = Stage("selection", 1, after=(SCORES,), options=("chosen", *RULE))
TUNED = Stage("tuned", 1, after=(SELECTION, DATASET), options=("optimizer", "finetune", "after", "precision", "seed"))
