"""What a network can be trained for, by name: `TASKS`."""

from ablations.tasks.detection import DetectionTask

TASKS = {"detection": DetectionTask}
