"""What uv-mutex says to a user, in one place. Imported only when something is to be said."""


def no_folder(error: OSError) -> str:
    return f"the working directory can't be found: {error.strerror}; go to another folder"


def no_project(folder: str) -> str:
    return f"{folder} is in no project of uv: no pyproject.toml there or above; go to a project, or name its folder"


def no_command() -> str:
    return "exec needs a command; write it after two dashes: uv-mutex exec -- COMMAND"


def not_found(command: str) -> str:
    return f"cannot start {command}: it is not on PATH; install it, or give its path"


CHECK_FILE = "check that file"


def cannot_watch() -> str:
    return "--watch draws on a terminal; leave it out, or leave out --json and the pipe"


def cannot_look(reason: str) -> str:
    return f"can't be looked at: {reason}; `uv-mutex doctor` says what to do"


def not_renewed(seconds: float) -> str:
    return f"not renewed for {seconds:.0f} s by this host's clock: if it is dead, the next call takes it over"
