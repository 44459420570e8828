"""Hydra's door to the project's launchers: submitit's, each of whose jobs is told on its own."""

from collections.abc import Sequence

from hydra.core.utils import JobReturn

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import LocalLauncher, SlurmLauncher
except ImportError:  # the extra `launchers` is not installed: hydra/launcher=slurm then says so
    pass
else:

    class LocalJobs(LocalLauncher):
        """`hydra/launcher=local_jobs`, see ablations.sweep.jobs."""

        def launch(
            self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
        ) -> list[JobReturn]:
            # Hydra imports every plugin at every start, also where no sweep is run
            from ablations.sweep.jobs import launch

            return launch(self, "local", job_overrides, initial_job_idx)

    class SlurmJobs(SlurmLauncher):
        """`hydra/launcher=slurm`, see ablations.sweep.jobs."""

        def launch(
            self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
        ) -> list[JobReturn]:
            from ablations.sweep.jobs import launch

            return launch(self, "slurm", job_overrides, initial_job_idx)
