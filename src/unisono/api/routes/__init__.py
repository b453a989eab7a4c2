"""One module a noun; each offers ``router``. Routes translate: the rules live in ``store`` and ``services``."""
