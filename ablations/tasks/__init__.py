"""What a network can be trained for, by name: `TASKS`."""

from ablations.config import CLASSIFY, DETECT
from ablations.tasks.classification import ClassificationTask
from ablations.tasks.detection import DetectionTask

TASKS: dict[str, type[ClassificationTask | DetectionTask]] = {
    DETECT: DetectionTask,
    CLASSIFY: ClassificationTask,
}
"""Every `task=` by its name."""
