"""The two ways a command ends badly: the user's mistake, or a fault of the run."""


class UserError(Exception):
    """A mistake of the user's. Its message says got / want / do; exit code 2, no traceback."""


class RunFault(Exception):
    """A run that cannot go on. Its message says what was saved and how to resume; exit code 1."""


class AuditError(RunFault):
    """Replay does not reproduce the rollout bit for bit, so no update may be made."""
