"""What sets an analysis that has nothing to say here apart from one that failed."""


class NotApplicable(ValueError):
    """An analysis asks something that this table, model or point has no answer to; the message says why.

    A study tells the reason and goes on. Any other error is a failure, and told as one.
    """
