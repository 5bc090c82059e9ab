"""What TensorFlow's native code writes to standard error."""

import os


def quiet_tensorflow(*, errors_too: bool = False) -> None:
    """Hide TensorFlow's informational messages and warnings, unless the user has set a level.

    To be called before TensorFlow is first imported, which reads `TF_CPP_MIN_LOG_LEVEL` then;
    processes started later inherit it.

    Args:
        errors_too: also hide its error messages.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if errors_too else "2")
