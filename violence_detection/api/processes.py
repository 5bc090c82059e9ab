"""Decoders are processes of their own, which import the program that started them."""

import multiprocessing

from violence_detection.errors import UserError


def require_main_program() -> None:
    """Raise `UserError` in a process that decodes clips, which runs a program's top level again."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(
            "processes that decode clips import the program: put what it does below 'if __name__ "
            '== "__main__":\''
        )
