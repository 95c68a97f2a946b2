"""What the heads of AU experts learn."""

from .tables import ActionUnitTable, load_table
from .targets import presence_auroc, prototype_targets
