"""A process that is killed while it starts: ``python -m tests.tf.dying``."""

import os
import signal

if __name__ == "__main__":
    os.kill(os.getpid(), signal.SIGKILL)
