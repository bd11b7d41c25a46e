"""Programs that components run through the command provider; each can be run by hand with the same environment."""

import signal
import sys

# Ctrl-C goes to the whole group of processes. While `python -m` looks for the program, argv has "-m" and nothing of
# the program runs yet: from here on Ctrl-C ends it as it ends any other command, and not with a traceback.
if sys.argv[:1] == ["-m"]:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
