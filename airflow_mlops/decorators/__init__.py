"""Decorators of TaskFlow: ``@task.…``."""
