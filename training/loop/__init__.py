"""How networks are trained: the loop, its checkpoints, what a command trains into one folder, several processes."""

from .evaluation import evaluate_folder, one_vs_rest
from .fit import Job, fit
from .jobs import Share, share_of_jobs
from .predict import check_outputs, predict
from .processes import (
    as_main_process,
    cache_faces,
    create_accelerator,
    main_process_prepares,
    once_per_machine,
    share_contents,
)
from .runs import Run, create_private_repo, finish_runs, plan_runs, start_trackers
