"""From a model and a job to files: plan, tasks, executors, and the command line."""
