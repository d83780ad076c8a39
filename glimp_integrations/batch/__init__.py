"""Many requests from a file, in OpenAI's batch format, answered into another file."""

from glimp_integrations.batch.plan import BatchPlan
from glimp_integrations.batch.progress import BatchObserver
from glimp_integrations.batch.run import run
from glimp_integrations.batch.totals import Totals

__all__ = ["BatchObserver", "BatchPlan", "Totals", "run"]
