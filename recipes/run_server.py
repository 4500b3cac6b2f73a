"""`wavenet serve`: the inference server. (A file serve.py here would hide the package from programs run by path.)"""

import sys

from serve.settings import ServeConfig


def serve(config: ServeConfig) -> int:
    """Listen and answer until a signal.

    Returns:
        The exit code.

    Raises:
        CheckpointError, ValueError: a model cannot be loaded, or what the server needs is not installed.
        OSError: the address cannot be had.
    """
    try:
        from serve.supervisor import Supervisor
        from serve.worker import listen, run
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the server needs {error.name}, which is not installed: pip install 'parallel-wavenet[serve]'"
        ) from None
    with listen(config) as listening:
        host, port = listening.getsockname()[:2]
        sys.stdout.write(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}\n")
        sys.stdout.flush()
        if config.workers > 1:
            return Supervisor(config, listening).run()
        run(config, listening)
    return 0
